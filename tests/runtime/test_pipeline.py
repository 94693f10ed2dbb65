"""The pipeline: order, backpressure, the newest frame, errors of every stage, ends, buffers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pipeline_parts import Levels, Memory, ramp

from edgedet.contract.errors import EdgedetError, EngineError, ImageError, SinkError, SourceError
from edgedet.contract.frames import Frame, Image
from edgedet.contract.results import Result
from edgedet.runtime import (
    Callback,
    CpuPredictor,
    Null,
    Overlay,
    Pipeline,
    Sink,
    Source,
    open_predictor,
    open_source,
)
from edgedet.runtime.sinks.sink import RunInfo

CLASSES = ("dark", "bright")


@pytest.fixture(scope="module")
def predictor(brightness: Path) -> Iterator[CpuPredictor]:
    with open_predictor(brightness) as opened:
        yield opened


class Clock(Source):
    """A live source: a frame every 2 ms whether or not anyone reads, brightness = its number / 1000."""

    live = True

    def __init__(self, frames: int) -> None:
        self.name = "clock"
        self.last = frames
        self.began = time.monotonic()
        self.given = -1
        self.grabs = 0

    def grab(self) -> bool:
        number = max(self.given + 1, int((time.monotonic() - self.began) / 0.002))
        time.sleep(max(0.0, self.began + number * 0.002 - time.monotonic()))
        self.given = number
        self.grabs += number <= self.last
        return number <= self.last

    def retrieve(self, buffer: Image | None) -> Image:
        image = np.empty((48, 64, 3), np.uint8) if buffer is None else buffer
        image[:] = self.given % 200
        return image


def test_opencv_helpers_rest_while_a_pipeline_runs(predictor: CpuPredictor) -> None:
    """They spin beside a network that uses all cores; how many there were is as it was, afterwards."""
    before = cv2.getNumThreads()
    seen: list[int] = []
    Pipeline(Levels(ramp(3)), predictor, [Callback(lambda *_: seen.append(cv2.getNumThreads()))]).run()
    assert seen == [1, 1, 1]
    assert cv2.getNumThreads() == before


def test_results_come_in_order_each_with_its_own_frame(predictor: CpuPredictor) -> None:
    source, sink = Levels(ramp(60)), Memory()
    report = Pipeline(source, predictor, [sink]).run()
    assert sink.frames == list(range(60))
    np.testing.assert_allclose(sink.scores, source.levels, atol=3e-3)
    assert sink.pixels == [round(255 * v) for v in source.levels]
    assert source.closed
    assert sink.closed == 1
    assert sink.stream is not None
    assert sink.stream.spec.classes == CLASSES
    assert (report.frames, report.dropped, report.interrupted) == (60, 0, False)
    assert list(report.stages) == ["capture", "preprocess", "network", "postprocess", "memory"]
    assert all(t.count == 60 for t in report.stages.values())
    assert report.latency.count == 60
    assert report.fps == pytest.approx(60 / report.seconds)
    assert list(report.cpu_ms) == ["capture", "preprocess", "postprocess", "memory", "network and libraries"]
    assert min(report.cpu_ms.values()) >= 0


def test_several_streams_keep_the_order(brightness: Path) -> None:
    sink = Memory()
    with open_predictor(brightness, streams=2, threads=2) as predictor:
        Pipeline(Levels(ramp(60)), predictor, [sink]).run()
    assert sink.frames == list(range(60))
    np.testing.assert_allclose(sink.scores, ramp(60), atol=3e-3)


def test_nothing_is_allocated_per_frame(predictor: CpuPredictor, bikes: Path) -> None:
    sink = Memory()
    Pipeline(open_source(bikes), predictor, [sink], overlay=Overlay(CLASSES)).run()
    assert len(sink.frames) == 250
    assert 1 < len(sink.buffers) <= predictor.in_flight + 3


def test_a_file_waits_for_a_slow_sink(predictor: CpuPredictor) -> None:
    source = Levels(ramp(40))
    ahead: list[int] = []

    def slow(frame: Frame, result: Result) -> None:
        time.sleep(0.005)
        ahead.append(source.reads - frame.index)

    report = Pipeline(source, predictor, [Callback(slow)]).run()
    assert (report.frames, report.dropped) == (40, 0)
    assert max(ahead) <= predictor.in_flight + 4  # the pool, and one grabbed that waits for a buffer


def test_a_live_source_keeps_the_newest(predictor: CpuPredictor) -> None:
    source, memory = Clock(300), Memory()

    def slow(frame: Frame, result: Result) -> None:
        time.sleep(0.03)

    report = Pipeline(source, predictor, [memory, Callback(slow)]).run()
    assert memory.frames == sorted(set(memory.frames))
    assert report.dropped > report.frames  # a frame every 2 ms, a result every 30 ms
    # every frame was either delivered or counted, and what came last is not what came first, worked off
    assert report.dropped + report.frames == source.grabs
    assert memory.frames[-1] > 0.7 * source.grabs
    assert len(memory.buffers) <= predictor.in_flight + 3


def test_limit_counts_results(predictor: CpuPredictor) -> None:
    sink = Memory()
    report = Pipeline(Levels(ramp(50)), predictor, [sink], limit=7).run()
    assert sink.frames == list(range(7))
    assert report.frames == 7


def test_overlay_is_drawn_before_the_sinks_see_the_frame(predictor: CpuPredictor) -> None:
    seen: list[bool] = []

    def look(frame: Frame, result: Result) -> None:
        seen.append(len(np.unique(frame.image)) > 1)

    report = Pipeline(Levels(ramp(3)), predictor, [Callback(look)], overlay=Overlay(CLASSES)).run()
    assert seen == [True] * 3
    assert report.stages["overlay"].count == 3


class Failing(Levels):
    """Levels whose sixth frame cannot be had."""

    def __init__(self, error: Exception) -> None:
        super().__init__(ramp(20))
        self.error = error

    def retrieve(self, buffer: Image | None) -> Image:
        if self.reads == 6:
            raise self.error
        return super().retrieve(buffer)


@pytest.mark.parametrize("error", [ImageError("half a picture"), OSError("cable")])
def test_an_error_of_the_source_comes_after_its_good_frames(
    predictor: CpuPredictor, error: Exception
) -> None:
    sink = Memory()
    kind = ImageError if isinstance(error, ImageError) else SourceError
    pipeline = Pipeline(Failing(error), predictor, [sink])
    with pytest.raises(kind, match=r"^capture: .*(half a picture|OSError: cable)"):
        pipeline.run()
    assert sink.frames == [0, 1, 2, 3, 4]
    assert sink.closed == 1
    assert pipeline.report().frames == 5


class Broken(Levels):
    """Its sixth frame has no pixels."""

    def retrieve(self, buffer: Image | None) -> Image:
        image = super().retrieve(buffer)
        return np.empty((0, 0, 3), np.uint8) if self.reads == 6 else image


def test_a_frame_that_is_no_image_is_named(predictor: CpuPredictor) -> None:
    sink = Memory()
    with pytest.raises(ImageError, match=r"^capture: An image is uint8 of shape \(0, 0, 3\)"):
        Pipeline(Broken(ramp(40)), predictor, [sink]).run()
    assert sink.frames == [0, 1, 2, 3, 4]
    assert sink.closed == 1


def test_an_error_of_postprocessing_is_named(predictor: CpuPredictor) -> None:
    sink = Memory()
    levels = ramp(40)
    levels[5] = 0.95  # the network's output becomes NaN
    with pytest.raises(EngineError, match=r"^postprocess: The network's output is not finite"):
        Pipeline(Levels(levels), predictor, [sink]).run()
    assert sink.frames == [0, 1, 2, 3, 4]
    assert sink.closed == 1
    assert len(predictor(np.full((8, 8, 3), 100, np.uint8))) == 1  # type: ignore[arg-type]


def test_an_error_of_the_overlay_is_named(predictor: CpuPredictor) -> None:
    sink = Memory()
    with pytest.raises(SinkError, match=r"^overlay: IndexError"):
        Pipeline(Levels(ramp(40)), predictor, [sink], overlay=Overlay(("only one class",))).run()
    assert sink.frames == []
    assert sink.closed == 1


def test_an_error_of_a_sink_closes_the_others_whole(predictor: CpuPredictor) -> None:
    def fail(frame: Frame, result: Result) -> None:
        if frame.index == 5:
            raise ValueError("full")

    sink = Memory()
    with pytest.raises(SinkError, match=r"^callback: ValueError: full") as caught:
        Pipeline(Levels(ramp(40)), predictor, [sink, Callback(fail)]).run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert sink.frames == [0, 1, 2, 3, 4, 5]
    assert sink.closed == 1


class Unopened(Sink):
    """A sink that cannot be opened."""

    name = "unopened"

    def open(self, stream: RunInfo) -> None:
        raise SinkError("No window here.", hint="Use another.")

    def write(self, frame: Frame, result: Result) -> None:
        raise AssertionError("it was never opened")


def test_a_sink_that_does_not_open_ends_it_before_a_frame_is_read(predictor: CpuPredictor) -> None:
    source, sink = Levels(ramp(5)), Memory()
    with pytest.raises(SinkError, match=r"^unopened: No window here\. Use another\.$"):
        Pipeline(source, predictor, [sink, Unopened()]).run()
    assert source.reads == 0
    assert source.closed
    assert sink.closed == 1


def test_stop_from_another_thread(predictor: CpuPredictor) -> None:
    sink = Memory()
    pipeline = Pipeline(Clock(10**9), predictor, [sink])
    timer = threading.Timer(0.2, pipeline.stop)
    timer.start()
    report = pipeline.run()
    timer.join()
    assert report.frames == len(sink.frames) > 0
    assert not report.interrupted


def test_ctrl_c_ends_it_well_and_leaves_the_handler_as_it_was(predictor: CpuPredictor) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(frame: Frame, result: Result) -> None:
        if frame.index == 3:
            os.kill(os.getpid(), signal.SIGINT)

    sink = Memory()
    report = Pipeline(Levels(ramp(500)), predictor, [sink, Callback(interrupt)]).run()
    assert report.interrupted
    assert 4 <= len(sink.frames) < 100
    assert sink.frames == list(range(len(sink.frames)))
    assert sink.closed == 1
    assert signal.getsignal(signal.SIGINT) is before


INSIST = """
import os, signal, sys, time
from edgedet.runtime import Callback, Null, Pipeline, open_predictor, open_source

class Closing(Null):
    def close(self):
        print("closed")

def insist(frame, result):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

# a shell starts background jobs with SIGINT ignored; a person's terminal does not
signal.signal(signal.SIGINT, signal.default_int_handler)
with open_predictor(sys.argv[1]) as predictor:
    try:
        Pipeline(open_source(sys.argv[2]), predictor, [Closing(), Callback(insist)]).run()
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_second_ctrl_c_interrupts(brightness: Path, bikes: Path) -> None:
    command = [sys.executable, "-c", INSIST, str(brightness), str(bikes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\ninterrupted\n", "")


def test_it_runs_in_any_thread(predictor: CpuPredictor) -> None:
    reports: list[object] = []
    thread = threading.Thread(
        target=lambda: reports.append(Pipeline(Levels(ramp(5)), predictor, [Null()]).run())
    )
    thread.start()
    thread.join()
    assert len(reports) == 1


def test_every_error_is_named(predictor: CpuPredictor) -> None:
    """Whatever a stage raises reaches the caller as an EdgedetError, the reader's going away excepted."""

    def gone(frame: Frame, result: Result) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Pipeline(Levels(ramp(5)), predictor, [Callback(gone)]).run()
    for error in (RuntimeError("x"), KeyError("y")):
        with pytest.raises(EdgedetError):
            Pipeline(Failing(error), predictor).run()
