"""From frames to results on the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import EngineError, ImageError
from edgedet.contract.frames import Frame
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import preprocess
from edgedet.contract.results import Detections
from edgedet.contract.spec import Thresholds
from edgedet.runtime import CpuPredictor, open_engine, open_predictor

ENGINES = ("openvino", "onnxruntime")


def frame(level: float) -> Frame:
    return Frame(np.full((48, 64, 3), round(255 * level), np.uint8), 0, time.monotonic(), "test")


def test_one_image(brightness: Path) -> None:
    with open_predictor(brightness) as predictor:
        result = predictor(frame(0.4).image)
    assert isinstance(result, Detections)
    np.testing.assert_allclose(result.scores, [0.4], atol=1e-3)
    np.testing.assert_allclose(result.boxes, [[8, 12, 40, 36]])  # network pixels x (2, 1.5)
    assert result.labels.tolist() == [1]


def test_it_is_the_reference_composed(yolo: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    with open_predictor(yolo) as predictor:
        result = predictor(image)
    with open_engine(yolo) as engine:
        tensor, transform = preprocess(image, engine.spec.input)
        (expected,) = make_postprocessor(engine.spec)(engine.infer({"images": tensor}), [transform])
    assert isinstance(result, Detections)
    assert len(result) > 0
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)


def test_results_outlive_the_next_frame(brightness: Path) -> None:
    with open_predictor(brightness) as predictor:
        first = predictor(frame(0.2).image)
        for _ in range(5):
            predictor(frame(0.7).image)
    assert isinstance(first, Detections)
    np.testing.assert_allclose(first.scores, [0.2], atol=1e-3)


def test_thresholds_replace_the_spec_s(brightness: Path) -> None:
    with open_predictor(brightness, thresholds=Thresholds(score=0.5)) as predictor:
        assert len(predictor(frame(0.4).image)) == 0  # type: ignore[arg-type]
        assert len(predictor(frame(0.6).image)) == 1  # type: ignore[arg-type]


def test_submit_waits_while_all_tickets_are_out(brightness: Path) -> None:
    with open_predictor(brightness, in_flight=2) as predictor:
        tickets = [predictor.submit([frame(0.1)]), predictor.submit([frame(0.2)])]
        done = threading.Event()
        late: list[object] = []

        def third() -> None:
            late.append(predictor.submit([frame(0.3)]))
            done.set()

        thread = threading.Thread(target=third)
        thread.start()
        assert not done.wait(0.1)
        (result,) = predictor.collect(tickets[0])
        assert done.wait(30)
        thread.join()
        assert isinstance(result, Detections)
        np.testing.assert_allclose(result.scores, [0.1], atol=3e-3)
        predictor.collect(tickets[1])
        predictor.collect(late[0])  # type: ignore[arg-type]


def test_a_ticket_tells_where_the_time_went(brightness: Path) -> None:
    with open_predictor(brightness) as predictor:
        ticket = predictor.submit([frame(0.1)])
        predictor.collect(ticket)
        assert tuple(ticket.times) == predictor.stages
        assert all(t > 0 for t in ticket.times.values())


def test_an_error_frees_the_request(brightness: Path) -> None:
    with open_predictor(brightness, in_flight=1) as predictor:
        for _ in range(3):
            with pytest.raises(EngineError, match="not finite"):
                predictor(frame(0.95).image)
            with pytest.raises(ImageError):
                predictor(np.zeros((0, 0, 3), np.uint8))
        assert len(predictor(frame(0.5).image)) == 1  # type: ignore[arg-type]


def test_frames_of_a_batch_come_back_in_order(write_model: Callable[..., Path], tmp_path: Path) -> None:
    with CpuPredictor(open_engine(write_model(tmp_path / "four.onnx", batch=4))) as predictor:
        for levels in ((0.1, 0.2, 0.3, 0.4), (0.6, 0.5), (0.7,)):
            results = predictor.collect(predictor.submit([frame(v) for v in levels]))
            assert len(results) == len(levels)
            for result, level in zip(results, levels, strict=True):
                assert isinstance(result, Detections)
                np.testing.assert_allclose(result.scores, [level], atol=3e-3)
        for wrong in (0, 5):
            with pytest.raises(EngineError, match="1 to 4"):
                predictor.submit([frame(0.1)] * wrong)
