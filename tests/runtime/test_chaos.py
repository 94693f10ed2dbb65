"""Whatever fails, hangs or is late: a run ends with a named error or a whole output, and leaves nothing.

EDGEDET_CHAOS=1000 runs as many seeds.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from chaos_engine import SITES, ChaosEngine, ChaosSink, ChaosSource, Faults, boxes_spec, map_spec

from edgedet.contract.errors import EdgedetError, EngineError
from edgedet.contract.frames import Notice
from edgedet.contract.results import Detections
from edgedet.runtime import CpuPredictor, Overlay, Pipeline, TiledPredictor
from edgedet.runtime.stats import Report

SEEDS = int(os.environ.get("EDGEDET_CHAOS", "100"))
WITHIN = 5.0


@dataclass
class Run:
    """One run by a seed: what it was made of, and what came of it."""

    faults: Faults
    engine: ChaosEngine
    source: ChaosSource
    sinks: list[ChaosSink]
    limit: int | None
    stopped: bool
    outcome: Report | BaseException | None = None


def plan(random: Random) -> Faults:
    sites = random.sample(sorted(SITES), random.choice((0, 1, 2, 2, 3, 4)))
    return Faults(
        {s: (random.choice((0, 1, 2, 5)), random.choice(SITES[s]), random.random() < 0.3) for s in sites},
        random.randrange(1 << 30),
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_ends_by_name_or_whole(seed: int) -> None:
    random = Random(seed)
    faults = plan(random)
    tiles, live = random.random() < 0.25, random.random() < 0.5
    batch, fixed = random.choice((1, 4)), random.random() < 0.5
    spec = (map_spec if tiles else boxes_spec)(batch if fixed else None)
    engine = ChaosEngine(spec, faults, streams=random.choice((1, 2)), seconds=random.choice((0, 0.002)))
    try:
        inner = CpuPredictor(engine, batch=batch, in_flight=random.choice((1, 2, 3)), timeout=0.1)
    except EngineError:
        assert faults.fired == [("request", "fail")]
        return
    except EdgedetError:
        return
    predictor = TiledPredictor(inner) if tiles else inner
    source = ChaosSource(faults, random.choice((0, 7, 30, 30)), live=live, deaf=random.random() < 0.2)
    overlay = Overlay(spec.classes) if random.random() < 0.3 else None
    drawn = overlay is not None
    sinks = [ChaosSink(faults, f"sink {i}", drawn=drawn) for i in range(random.choice((0, 1, 1, 2)))]
    limit = random.choice((None, None, 1, 7))
    silent = live and faults.plan.get("grab", (0, "", False))[1] == "hang"  # for as long as it likes
    stopped = silent or random.random() < 0.25
    stopper = threading.Timer(random.uniform(0.1, 0.2) if silent else random.uniform(0, 0.02), lambda: None)

    def notify(notice: Notice) -> None:
        faults.act("notify")

    pipeline = Pipeline(source, predictor, sinks, overlay=overlay, limit=limit, notify=notify, timeout=0.4)
    run = Run(faults, engine, source, sinks, limit, stopped)

    def whole_run() -> None:
        try:
            run.outcome = pipeline.run()
        except BaseException as e:
            run.outcome = e

    runner = threading.Thread(target=whole_run)
    if stopped:
        stopper.function = pipeline.stop
    stopper.start()
    runner.start()
    runner.join(WITHIN)
    ended = not runner.is_alive()
    hangs = any(kind == "hang" for _, kind in faults.fired)
    if not hangs:
        assert ended
        no_thread_is_left()
    usable(predictor, hangs=hangs)
    closer = threading.Thread(target=close, args=(predictor, faults))
    closer.start()
    closer.join(WITHIN)
    ended = ended and not closer.is_alive()
    faults.released.set()
    stopper.join()
    runner.join()
    closer.join()
    no_thread_is_left()
    assert ended
    assert_consistent(run, pipeline.report())


def no_thread_is_left() -> None:
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        left = [t.name for t in threading.enumerate() if t.name.startswith("edgedet")]
        if not left:
            return
        time.sleep(0.005)
    raise AssertionError(left)


def usable(predictor: CpuPredictor | TiledPredictor, *, hangs: bool) -> None:
    """All its slots are there, or an error says why not."""
    try:
        slots = [predictor.reserve() for _ in range(predictor.in_flight)]
        for slot in slots:
            predictor.release(slot)
    except EngineError:
        assert hangs


def close(predictor: CpuPredictor | TiledPredictor, faults: Faults) -> None:
    try:
        predictor.close()
    except EdgedetError:
        assert ("engine.close", "fail") in faults.fired
    with pytest.raises(EngineError):
        predictor.reserve()


def assert_consistent(run: Run, report: Report) -> None:
    fired, outcome, source = run.faults.fired, run.outcome, run.source
    assert run.faults.misuse == []
    assert isinstance(outcome, (Report, EdgedetError)), repr(outcome)
    for sink in run.sinks:
        assert sink.closed == sink.opened <= 1
        assert sink.frames == sorted(set(sink.frames))
    undelivered = source.given - report.frames - report.dropped
    assert undelivered >= 0
    faults = [(site, kind) for site, kind in fired if kind != "late" and site != "engine.close"]
    if not faults:
        assert isinstance(outcome, Report), repr(outcome)
        for sink in run.sinks if sum(map(bool, (run.stopped, run.limit))) == 0 else ():
            assert len(sink.frames) == report.frames
    if isinstance(outcome, Report):
        assert source.closed == 1
        # what was told to fail, and was called, was told to the caller; silence is no failure, and a stop may
        # come when the run has ended
        if run.stopped:
            faults = [fault for fault in faults if fault[0] != "source.stop"]
        assert all(site == "grab" and kind == "hang" and source.live for site, kind in faults), faults
        if not run.stopped and run.limit is None:
            assert undelivered == 0
            assert source.given == source.count
            if not source.live:
                assert report.frames == source.count
                assert all(s.frames == list(range(source.count)) for s in run.sinks)
        if run.limit is not None:
            assert report.frames <= run.limit
            if not run.stopped and not source.live:
                assert report.frames == min(run.limit, source.count)


def test_the_watchdog_gives_up_what_never_comes_back() -> None:
    """A library that hangs inside a call, at any stage: the run ends, and its threads with the hang."""
    for site in ("start", "grab", "retrieve"):
        faults = Faults({site: (3, "hang", False)})
        source, sink = ChaosSource(faults, 20, live=False), ChaosSink(faults)
        with CpuPredictor(ChaosEngine(boxes_spec(1), faults), timeout=0.1) as predictor:
            with pytest.raises(
                EdgedetError, match=r"^(capture|preprocess): .*did not come back within 0\.3 s"
            ):
                Pipeline(source, predictor, [sink], timeout=0.3).run()
            assert sink.frames == list(range(len(sink.frames)))
            if site != "start":
                assert sink.frames == [0, 1, 2]  # what came before is delivered
            assert sink.closed == 1
            assert source.closed == 0  # a thread is inside
            faults.released.set()
            no_thread_is_left()
            assert faults.misuse == []


def test_every_result_fails_and_the_run_ends() -> None:
    faults = Faults({"outputs": (0, "nan", True)})
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults)) as predictor:
        with pytest.raises(EngineError, match=r"^postprocess: .*not finite"):
            Pipeline(ChaosSource(faults, 10**9, live=True), predictor, [ChaosSink(faults)]).run()
        assert len(faults.fired) <= 10


@pytest.mark.parametrize(("count", "inferences"), [(1, 1), (4, 1), (8, 2), (9, 3), (30, 8)])
def test_a_fixed_batch_is_filled(count: int, inferences: int) -> None:
    faults = Faults({})
    engine, sink = ChaosEngine(boxes_spec(4), faults), ChaosSink(faults)
    with CpuPredictor(engine) as predictor:
        Pipeline(ChaosSource(faults, count, live=False), predictor, [sink]).run()
    assert sink.frames == list(range(count))
    assert engine.starts == inferences
    assert faults.misuse == []


def test_a_limit_inside_a_batch() -> None:
    faults = Faults({})
    engine, sink = ChaosEngine(boxes_spec(4), faults), ChaosSink(faults)
    with CpuPredictor(engine) as predictor:
        Pipeline(ChaosSource(faults, 50, live=False), predictor, [sink], limit=6).run()
    assert sink.frames == list(range(6))
    assert engine.starts == 2


def test_silent_cameras_hold_nothing_of_a_shared_predictor() -> None:
    """More cameras than slots, all silent but one, which runs."""
    silence = Faults({"grab": (0, "hang", True)})
    faults = Faults({})
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults), in_flight=1, timeout=0.2) as predictor:
        silent = [Pipeline(ChaosSource(silence, 9, live=True), predictor, timeout=1) for _ in range(3)]
        threads = [threading.Thread(target=p.run) for p in silent]
        for thread in threads:
            thread.start()
        while len(silence.fired) < 3:
            time.sleep(0.001)
        sink = ChaosSink(faults)
        Pipeline(ChaosSource(faults, 40, live=False), predictor, [sink], timeout=1).run()
        assert sink.frames == list(range(40))
        for pipeline in silent:
            pipeline.stop()
        for thread in threads:
            thread.join()


def test_a_live_source_gives_the_newest_when_a_slot_is_free() -> None:
    """With one slot and a slow engine, what was overtaken is counted, and nothing else."""
    faults = Faults({})
    source, sink = ChaosSource(faults, 150, live=True), ChaosSink(faults)
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults, seconds=0.02), in_flight=1) as predictor:
        report = Pipeline(source, predictor, [sink]).run()
    assert report.frames + report.dropped == source.given == 150
    assert report.dropped > report.frames
    assert faults.misuse == []


def test_results_are_right() -> None:
    """The fake computes: a test of the test."""
    with CpuPredictor(ChaosEngine(boxes_spec(None), Faults({}))) as predictor:
        result = predictor(np.full((8, 8, 3), 102, np.uint8))
    assert isinstance(result, Detections)
    np.testing.assert_allclose(result.scores, [0.4], atol=1e-3)


class Chatty(ChaosSource):
    """Says something every millisecond, and has a few frames in between."""

    def grab(self) -> bool:
        for _ in range(5000):
            if self._stopping.wait(0.001):
                return False
            self.notify(Notice("still here"))
            if self.given < 5:
                break
        return super().grab()


def test_notices_do_not_keep_the_watchdog_from_looking() -> None:
    faults = Faults({"start": (3, "hang", False)})
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults), timeout=0.1) as predictor:
        with pytest.raises(EngineError, match=r"^preprocess: .*within 0\.3 s"):
            Pipeline(Chatty(faults, 10**9, live=True), predictor, [ChaosSink(faults)], timeout=0.3).run()
        faults.released.set()
        no_thread_is_left()


@pytest.mark.parametrize("live", [False, True])
def test_a_predictor_that_is_closed_ends_its_runs(live: bool) -> None:
    faults = Faults({})
    engine = ChaosEngine(boxes_spec(1), faults, seconds=0.001)
    predictor = CpuPredictor(engine, in_flight=2)
    sinks = [ChaosSink(faults), ChaosSink(faults)]
    raised: list[str] = []

    def run(sink: ChaosSink) -> None:
        with pytest.raises(EngineError) as caught:
            Pipeline(ChaosSource(faults, 10**9, live=live), predictor, [sink]).run()
        raised.append(caught.value.message)

    threads = [threading.Thread(target=run, args=(sink,)) for sink in sinks]
    for thread in threads:
        thread.start()
    while not all(len(sink.frames) > 3 for sink in sinks):
        time.sleep(0.001)
    predictor.close()
    for thread in threads:
        thread.join(30)
    assert len(raised) == 2
    assert all("is closed" in message for message in raised)
    assert engine.closed
    assert faults.misuse == []
    assert all(sink.frames == sorted(set(sink.frames)) and sink.closed == 1 for sink in sinks)
