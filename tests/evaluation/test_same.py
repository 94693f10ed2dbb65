from __future__ import annotations

import numpy as np

from edgedet.contract.results import Detections
from edgedet.evaluation.same import same


def detections(*rows: tuple[float, float, float, float, int]) -> Detections:
    boxes = np.array([r[:4] for r in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.ones(len(rows), np.float32), np.array([r[4] for r in rows], np.int64))


def test_pairs_are_of_one_class_and_overlap() -> None:
    a = detections((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 0))
    b = detections((20, 0, 30, 10, 0), (0, 0, 10, 9, 0), (40, 0, 50, 8, 0))  # IoU: class differs, 0.9, 0.8
    assert same(a, b, 0.9) == same(b, a, 0.9) == 1
    assert same(a, b, 0.8) == 2
    assert same(a, a, 0.999) == 3


def test_no_detection_is_in_two_pairs() -> None:
    a = detections((0, 0, 10, 10, 0), (0, 0, 10, 9.5, 0))
    b = detections((0, 0, 10, 9.8, 0))
    assert same(a, b, 0.9) == same(b, a, 0.9) == 1


def test_nothing() -> None:
    assert same(detections(), detections(), 0.9) == 0
    assert same(detections((0, 0, 1, 1, 0)), detections(), 0.9) == 0
