from __future__ import annotations

import numpy as np

from edgedet.contract.results import Detections, Instances
from edgedet.runtime.sinks.overlay import Overlay
from edgedet.runtime.sinks.sink import describe, run_lengths


def two() -> Instances:
    boxes = np.array([[20, 30, 60, 70], [50, 40, 90, 80]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]))
    masks = np.ones((2, 4, 4), np.float32)
    masks[:, :, :2] = 0
    return Instances(found, masks)


def test_a_mask_is_painted_over_its_own_pixels():
    image = np.full((120, 160, 3), 100, np.uint8)
    overlay = Overlay(["a", "b"])
    overlay.draw(image, two())
    a, b = overlay.colours[0], overlay.colours[1]
    assert image[60, 47].tolist() == np.rint(50 + 0.5 * np.array(a)).tolist()
    assert image[65, 80].tolist() == np.rint(50 + 0.5 * np.array(b)).tolist()
    assert image[60, 30].tolist() == [100, 100, 100], "the empty half of the mask"
    assert image[100, 10].tolist() == [100, 100, 100], "outside all boxes"


def test_run_lengths_as_coco_writes_them():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)  # by columns: 0 0 1 1 1 0
    assert run_lengths(mask) == [2, 3, 1]
    assert run_lengths(~mask) == [0, 2, 3, 1]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


def test_json_has_each_mask():
    found = describe(two(), ["a", "b"], (120, 160))["detections"]
    assert [d["class"] for d in found] == ["a", "b"]
    assert found[0]["box"] == [20.0, 30.0, 60.0, 70.0]
    for i, record in enumerate(found):
        assert record["mask"]["size"] == [120, 160]
        whole = np.concatenate(
            [np.full(n, k % 2, bool) for k, n in enumerate(record["mask"]["counts"])]
        ).reshape(160, 120)
        np.testing.assert_array_equal(whole.T, two().paste(i, (120, 160)))
