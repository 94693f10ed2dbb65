"""Results refuse what they are not."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.contract.results import Detections, Instances, SegmentationMap


def test_empty() -> None:
    assert len(Detections.empty()) == 0


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "message"),
    [
        (np.zeros((2, 4)), np.zeros(2, np.float32), np.zeros(2, np.int64), "boxes: got float64"),
        (
            np.zeros((2, 5), np.float32),
            np.zeros(2, np.float32),
            np.zeros(2, np.int64),
            r"boxes: got float32 \(2, 5\)",
        ),
        (
            np.zeros((2, 4), np.float32),
            np.zeros(3, np.float32),
            np.zeros(2, np.int64),
            r"expected float32 \(2,\)",
        ),
        (np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32), "labels: got int32"),
    ],
)
def test_detections_are_validated(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(boxes, scores, labels)


def test_masks_and_maps_are_validated() -> None:
    with pytest.raises(ValueError, match="masks: got"):
        Instances(Detections.empty(), np.zeros((1, 4, 4), np.float32))
    with pytest.raises(ValueError, match="classes: got"):
        SegmentationMap(np.zeros((4, 4, 1), np.uint8))


def test_a_map_counts_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.random.default_rng(0).integers(0, 12, (70, 90)).astype(np.uint8)
    found = SegmentationMap(classes)
    assert found.pixels.dtype == np.int64
    np.testing.assert_array_equal(found.pixels, np.bincount(classes.ravel(), minlength=256))
    assert found.pixels is found.pixels
    monkeypatch.setattr("edgedet.contract.results._EXACT", 1000)  # in strips, as a very large map
    np.testing.assert_array_equal(SegmentationMap(classes).pixels, found.pixels)
