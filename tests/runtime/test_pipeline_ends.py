"""Ends of a run that nobody plans: what fails, and what is closed all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pipeline_parts import Levels, Memory, ramp

from edgedet.contract.errors import EngineError, SinkError, SourceError, UsageError
from edgedet.contract.frames import Image, Notice
from edgedet.contract.results import Result
from edgedet.runtime import (
    CpuPredictor,
    Null,
    Overlay,
    Pipeline,
    open_predictor,
)

CLASSES = ("dark", "bright")


@pytest.fixture(scope="module")
def predictor(brightness: Path) -> Iterator[CpuPredictor]:
    with open_predictor(brightness) as opened:
        yield opened


def test_it_runs_once(predictor: CpuPredictor) -> None:
    pipeline = Pipeline(Levels(ramp(3)), predictor, [Null()])
    pipeline.run()
    with pytest.raises(UsageError, match="runs once"):
        pipeline.run()


class Unclosable(Memory):
    def close(self) -> None:
        super().close()
        raise self.error

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_everything_is_closed_whatever_a_close_raises(predictor: CpuPredictor, error: BaseException) -> None:
    source, sinks = Levels(ramp(5)), [Memory(), Unclosable(error), Memory()]
    kind = SinkError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(kind):
        Pipeline(source, predictor, sinks).run()
    assert [s.closed for s in sinks] == [1, 1, 1]
    assert all(s.frames == [0, 1, 2, 3, 4] for s in sinks)
    assert source.closed


class Noisy(Levels):
    """Says something before each frame, and cannot be closed."""

    def grab(self) -> bool:
        self.notify(Notice("noise"))
        return super().grab()

    def close(self) -> None:
        super().close()
        raise OSError("busy")


def test_what_a_notice_raises_is_not_the_sources_error(predictor: CpuPredictor) -> None:
    source, sink = Noisy(ramp(500)), Memory()

    def refuse(notice: Notice) -> None:
        raise ValueError("no more")

    with pytest.raises(SinkError, match=r"^notify: ValueError: no more"):
        Pipeline(source, predictor, [sink], notify=refuse).run()
    assert source.closed
    assert sink.closed == 1


def test_a_source_that_cannot_be_closed_is_named(predictor: CpuPredictor) -> None:
    sink = Memory()
    with pytest.raises(SourceError, match=r"^capture: OSError: busy"):
        Pipeline(Noisy(ramp(5)), predictor, [sink]).run()
    assert sink.frames == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("started", [0, 1, 2])
def test_a_machine_without_threads_is_named(
    predictor: CpuPredictor, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """Where a container's limit of processes is reached: those that did start come to their end."""
    start, left = threading.Thread.start, iter(range(started))

    def scarce(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    source, sink = Levels(ramp(5)), Memory()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", scarce)
        with pytest.raises(EngineError, match="can't start new thread"):
            Pipeline(source, predictor, [sink]).run()
    assert source.closed
    assert sink.closed == 1
    predictor(np.full((8, 8, 3), 100, np.uint8))


def test_what_leaves_a_stage_in_any_way_ends_the_run(predictor: CpuPredictor) -> None:
    """SystemExit in a thread would end just that thread."""

    class Leaving(Overlay):
        def draw(self, image: Image, result: Result) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        Pipeline(Levels(ramp(40)), predictor, [Memory()], overlay=Leaving(CLASSES)).run()
    predictor(np.full((8, 8, 3), 100, np.uint8))
