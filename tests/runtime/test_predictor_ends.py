"""Predictors: every wait ends, and nothing that is used wrongly gets another's result."""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from chaos_engine import ChaosEngine, Faults, boxes_spec, map_spec

from edgedet.contract.errors import EngineError, EngineTimeout, ImageError, UsageError
from edgedet.contract.frames import Frame
from edgedet.runtime import CpuPredictor, TiledPredictor, open_predictor

ENGINES = ("openvino", "onnxruntime")


def frame(level: float) -> Frame:
    return Frame(np.full((48, 64, 3), round(255 * level), np.uint8), 0, time.monotonic(), "test")


# ends: whoever waits is woken, and what is used wrongly is named ----------------------------------------


@pytest.fixture(params=["openvino", "onnxruntime", "tiles"])
def whole(request: pytest.FixtureRequest, brightness: Path) -> CpuPredictor | TiledPredictor:
    """A predictor of each kind, with one slot."""
    if request.param == "tiles":
        return TiledPredictor(CpuPredictor(ChaosEngine(map_spec(1), Faults({})), in_flight=2, timeout=5))
    pytest.importorskip(request.param)
    return open_predictor(brightness, engine=request.param, in_flight=1)


def test_after_close_every_call_is_a_named_error(whole: CpuPredictor | TiledPredictor) -> None:
    slot = whole.reserve()
    whole.close()
    whole.close()
    for call in (whole.reserve, lambda: whole(frame(0.5).image), lambda: whole.submit([frame(0.5)])):
        with pytest.raises(EngineError, match="is closed"):
            call()
    with pytest.raises(EngineError, match="is closed"):
        whole.submit([frame(0.5)], slot)


def test_close_wakes_who_waits_for_a_slot(whole: CpuPredictor | TiledPredictor) -> None:
    whole.submit([frame(0.5)])
    woken: list[str] = []

    def wait() -> None:
        try:
            whole.reserve()
        except EngineError as e:
            woken.append(e.message)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    whole.close()
    for thread in threads:
        thread.join(30)
    assert len(woken) == 3
    assert all("is closed" in message for message in woken)


def test_a_ticket_out_when_it_is_closed(whole: CpuPredictor | TiledPredictor) -> None:
    ticket = whole.submit([frame(0.5)])
    whole.close()
    with pytest.raises(EngineError, match="is closed"):
        whole.collect(ticket)  # type: ignore[arg-type]


def test_a_ticket_is_collected_once(whole: CpuPredictor | TiledPredictor) -> None:
    with whole:
        for _ in range(3):
            ticket = whole.submit([frame(0.5)])
            assert len(whole.collect(ticket)) == 1  # type: ignore[arg-type]
            with pytest.raises(EngineError, match="collected already"):
                whole.collect(ticket)  # type: ignore[arg-type]


def test_a_slot_is_used_once(whole: CpuPredictor | TiledPredictor) -> None:
    with whole:
        slot = whole.reserve()
        ticket = whole.submit([frame(0.5)], slot)  # type: ignore[arg-type]
        for misuse in (lambda: whole.submit([frame(0.1)], slot), lambda: whole.release(slot)):  # type: ignore[arg-type]
            with pytest.raises(EngineError, match="not reserved"):
                misuse()
        whole.collect(ticket)  # type: ignore[arg-type]
        slot = whole.reserve()
        whole.release(slot)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="not reserved"):
            whole.submit([frame(0.1)], slot)  # type: ignore[arg-type]
        whole(frame(0.5).image)


def test_another_s_ticket_is_refused_and_costs_nothing(whole: CpuPredictor | TiledPredictor) -> None:
    with whole, CpuPredictor(ChaosEngine(boxes_spec(1), Faults({}))) as other:
        ticket = other.submit([frame(0.5)])
        with pytest.raises(EngineError, match="another predictor"):
            whole.collect(ticket)  # type: ignore[arg-type]
        assert len(other.collect(ticket)) == 1
        slot = whole.reserve()  # the only one
        whole.release(slot)  # type: ignore[arg-type]


def test_tickets_that_nobody_collects_end_the_wait() -> None:
    faults = Faults({})
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults), in_flight=2, timeout=0.1) as predictor:
        for _ in range(2):
            predictor.submit([frame(0.5)])
        with pytest.raises(EngineError, match=r"collected for 0\.1 s.*Collect every ticket"):
            predictor.reserve()
    assert predictor.engine.closed  # type: ignore[attr-defined]
    assert faults.misuse == []


@pytest.mark.parametrize("in_flight", [0, -1])
def test_no_slot_at_all_is_refused(brightness: Path, in_flight: int) -> None:
    with pytest.raises(UsageError, match="of at least 1"):
        open_predictor(brightness, in_flight=in_flight)


def test_an_engine_that_hangs_is_named_once_and_for_all() -> None:
    faults = Faults({"wait": (1, "hang", False)})
    engine = ChaosEngine(boxes_spec(1), faults)
    predictor = CpuPredictor(engine, in_flight=2, timeout=0.1)
    predictor(frame(0.5).image)
    first, second = predictor.submit([frame(0.4)]), predictor.submit([frame(0.6)])
    with pytest.raises(EngineTimeout, match=r"within 0\.1 s"):
        predictor.collect(first)
    (result,) = predictor.collect(second)  # which was done
    np.testing.assert_allclose(result.scores, [0.6], atol=1e-2)  # type: ignore[union-attr]
    with pytest.raises(EngineError, match=r"within 0\.1 s"):
        predictor.reserve()
    predictor.close()
    assert not engine.closed  # it still writes into its buffers
    assert faults.misuse == []
    faults.released.set()


def test_closed_while_another_thread_starts_an_inference() -> None:
    """Who closes cannot wait for what has not started: who starts it finds it closed, and waits for it."""
    faults = Faults({"start": (0, "hang", False)})
    engine = ChaosEngine(boxes_spec(1), faults)
    predictor = CpuPredictor(engine, timeout=30)
    raised: list[EngineError] = []

    def submit() -> None:
        with pytest.raises(EngineError) as caught:
            predictor.submit([frame(0.5)])
        raised.append(caught.value)

    thread = threading.Thread(target=submit)
    thread.start()
    while not faults.fired:
        time.sleep(0.001)
    closer = threading.Thread(target=predictor.close)
    closer.start()
    while True:
        try:
            predictor.release(predictor.reserve())
        except EngineError:
            break
    faults.released.set()
    thread.join(30)
    closer.join(30)
    assert "is closed" in raised[0].message
    assert engine.closed
    assert faults.misuse == []


class Interrupting(ChaosEngine):
    """Ctrl-C while the first inference is waited for."""

    def request(self, batch: int = 1) -> object:  # type: ignore[override]
        request = super().request(batch)
        wait, times = request.wait, iter([True])

        def interrupted(timeout: float | None = None) -> float:
            if next(times, False):
                raise KeyboardInterrupt
            return wait(timeout)

        request.wait = interrupted  # type: ignore[method-assign]
        return request


def test_an_interrupted_wait_does_not_hand_a_busy_request_on() -> None:
    faults = Faults({})
    with CpuPredictor(Interrupting(boxes_spec(1), faults, seconds=0.05), in_flight=1) as predictor:
        with pytest.raises(KeyboardInterrupt):
            predictor(frame(0.2).image)
        result = predictor(frame(0.7).image)
    np.testing.assert_allclose(result.scores, [0.7], atol=1e-2)  # type: ignore[union-attr]
    assert faults.misuse == []


@pytest.mark.parametrize("kind", ["nan", "shape"])
def test_outputs_no_sound_engine_gives_are_named(kind: str) -> None:
    faults = Faults({"outputs": (0, kind, False)})
    with CpuPredictor(ChaosEngine(boxes_spec(1), faults), in_flight=1) as predictor:
        with pytest.raises(EngineError):
            predictor(frame(0.5).image)
        predictor(frame(0.5).image)


# pixels ----------------------------------------------------------------------------------------------

PIXELS = {
    "grey": lambda i: i[..., 0],
    "grey with an axis": lambda i: i[..., :1],
    "alpha": lambda i: np.concatenate([i, i[..., :1]], axis=2),
    "float": lambda i: (i / 255).astype(np.float32),
    "double": lambda i: i.astype(np.float64),
    "12 bits": lambda i: i.astype(np.uint16) * 16,
    "signed": lambda i: i.astype(np.int8),
    "bool": lambda i: i > 100,
    "a batch": lambda i: i[None],
    "channels first": lambda i: i.transpose(2, 0, 1),
    "empty": lambda i: i[:0, :0],
    "no rows": lambda i: i[:0],
    "objects": lambda i: i.astype(object),
    "None": lambda i: None,
    "a list": lambda i: i.tolist(),
    "a string": lambda i: "picture.jpg",
}


@pytest.mark.parametrize("kind", PIXELS)
def test_pixels_of_another_kind_are_never_the_picture_before(brightness: Path, kind: str) -> None:
    image = frame(0.6).image
    with open_predictor(brightness) as predictor:
        for before in (image, np.zeros_like(image)):
            for _ in range(predictor.in_flight):
                predictor(before)
            with pytest.raises(ImageError, match="An image is"):
                predictor(PIXELS[kind](image))


def test_views_of_a_picture_are_that_picture(brightness: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (60, 80, 3), np.uint8)
    with open_predictor(brightness) as predictor:
        for view in (image[..., ::-1], image[::2, ::2], image[::-1], np.asfortranarray(image)):
            got, want = predictor(view), predictor(view.copy())
            np.testing.assert_array_equal(got.scores, want.scores)  # type: ignore[union-attr]


# threads and processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_four_threads_get_what_one_gets(brightness: Path, engine: str) -> None:
    pytest.importorskip(engine)
    rng = np.random.default_rng(1)
    sizes = [(48, 64), (31, 57), (64, 48), (200, 300)]
    images = [rng.integers(0, 220, (*sizes[i % 4], 3), np.uint8) for i in range(16)]
    with open_predictor(brightness, engine=engine) as predictor:
        want = [predictor(image) for image in images]
        wrong: list[int] = []

        def work(seed: int) -> None:
            for i in np.random.default_rng(seed).integers(0, 16, 500):
                got = predictor(images[i])
                same = all(
                    np.array_equal(getattr(got, f), getattr(want[i], f))
                    for f in ("boxes", "scores", "labels")
                )
                if not same:
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("engine", ENGINES)
def test_closed_by_another_thread_while_four_work(brightness: Path, engine: str) -> None:
    pytest.importorskip(engine)
    image = frame(0.5).image
    for turn in range(10):
        predictor = open_predictor(brightness, engine=engine)
        ends: list[BaseException | None] = []
        begun = threading.Barrier(5)

        def work(predictor: CpuPredictor = predictor, ends: list = ends, begun: object = begun) -> None:
            try:
                begun.wait()  # type: ignore[attr-defined]
                while True:
                    predictor(image)
            except BaseException as error:
                ends.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(0.002 * turn)
        predictor.close()
        for thread in threads:
            thread.join(30)
        assert len(ends) == 4
        assert all(isinstance(e, EngineError) and "is closed" in e.message for e in ends), ends


def resources() -> tuple[int, int, int]:
    """Threads, open files, and pages of memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages  # noqa: PTH208


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_opening_and_closing_leaves_nothing(brightness: Path, engine: str) -> None:
    """With a ticket out, too."""
    pytest.importorskip(engine)
    before = (0, 0, 0)
    for turn in range(60):
        with open_predictor(brightness, engine=engine) as predictor, suppress(EngineError):
            predictor(frame(0.5).image)
            predictor.submit([frame(0.5)])
        if turn == 19:
            before = resources()
    threads, files, pages = (now - then for now, then in zip(resources(), before, strict=True))
    assert (threads, files) == (0, 0)
    assert pages < 40 * 64  # far below what one more model in each of 40 turns would take
