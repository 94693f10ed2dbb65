"""Decoding: a hand-computed cell, and numpy = torch to 1e-4 px."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgedet.contract.boxes import sigmoid
from edgedet.contract.decode import DECODERS, anchors, class_map, regions, yolo


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_yolo_decodes_one_cell_as_computed_by_hand() -> None:
    # 2 rows x 4 columns of cells over 64 x 128 pixels, B = 1, K = 2
    grid = np.full((1, 7, 2, 4), -9, np.float32)
    # the cell of row 1, column 2: centre in its middle, half the image wide, a quarter high
    grid[0, :5, 1, 2] = [0.5, 0.5, 0.5**0.5, 0.5, logit(0.8)]
    grid[0, 5:, 1, 2] = [np.log(3), 0]
    boxes, scores = yolo({"grid": grid}, (64, 128), boxes_per_cell=1)
    assert boxes.shape == (1, 8, 4)
    assert scores.shape == (1, 8, 2)
    index = 1 * 4 + 2
    np.testing.assert_allclose(boxes[0, index], [80 - 32, 48 - 8, 80 + 32, 48 + 8], atol=1e-4)
    np.testing.assert_allclose(scores[0, index], [0.8 * 0.75, 0.8 * 0.25], atol=1e-6)


def test_at_another_size_boxes_keep_their_pixels() -> None:
    # the same cell content on a grid twice as wide: the same box, seen from the same pixels
    small, wide = (np.full((1, 7, 2, n), 0.3, np.float32) for n in (2, 4))
    a, _ = yolo({"grid": small}, (64, 64), boxes_per_cell=1, side=(64, 64))
    b, _ = yolo({"grid": wide}, (64, 128), boxes_per_cell=1, side=(64, 64))
    np.testing.assert_allclose(a[0, 1], b[0, 1], rtol=1e-6)
    c, _ = yolo({"grid": wide}, (64, 128), boxes_per_cell=1)
    assert c[0, 1, 2] - c[0, 1, 0] > 1.9 * (b[0, 1, 2] - b[0, 1, 0])


def test_yolo_keeps_the_boxes_of_a_cell_together() -> None:
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(2, 2 * 5 + 3, 3, 5)).astype(np.float32)
    boxes, scores = yolo({"grid": grid}, (96, 160), boxes_per_cell=2)
    image, row, col, b = 1, 2, 3, 1
    index = (row * 5 + col) * 2 + b
    x, y, w, h, confidence = grid[image, 5 * b : 5 * b + 5, row, col]
    box = boxes[image, index]
    np.testing.assert_allclose((box[0] + box[2]) / 2, (x + col) * 32, rtol=1e-5)
    np.testing.assert_allclose((box[1] + box[3]) / 2, (y + row) * 32, rtol=1e-5)
    np.testing.assert_allclose([box[2] - box[0], box[3] - box[1]], [w * w * 160, h * h * 96], rtol=1e-4)
    np.testing.assert_allclose(scores[image, index].sum(), sigmoid(confidence), rtol=1e-5)


def test_numpy_and_torch_decode_alike() -> None:
    grid = np.random.default_rng(1).normal(scale=3, size=(2, 30, 10, 10)).astype(np.float32)
    ours = yolo({"grid": grid}, (320, 320), boxes_per_cell=2)
    theirs = yolo({"grid": torch.from_numpy(grid)}, (320, 320), boxes_per_cell=2)
    np.testing.assert_allclose(ours[0], theirs[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1].numpy(), atol=1e-6)


def test_anchors_are_decoded_as_computed_by_hand() -> None:
    # 1 x 2 positions of one shape, 20 x 40 px, centres (16, 16) and (48, 16); two classes and background
    deltas = np.array([[[1, 0, 0, 0], [0, 2, np.log(2) / 0.2, 0]]], np.float32)
    logits = np.array([[[0, 0, np.log(2)], [np.log(8), 0, 0]]], np.float32)
    boxes, scores = anchors(
        {"deltas": deltas, "class_logits": logits},
        (32, 64),
        strides=[32],
        shapes=[[[20, 40]]],
        variances=[0.1, 0.1, 0.2, 0.2],
    )
    # moved by a tenth of its width; by a fifth of its height and twice as wide
    np.testing.assert_allclose(boxes, [[[8, -4, 28, 36], [28, 4, 68, 44]]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, [[[0.25, 0.5], [0.1, 0.1]]], rtol=1e-5)


def test_numpy_and_torch_decode_anchors_alike() -> None:
    rng = np.random.default_rng(4)
    strides, shapes = [16, 32], [[[30.0, 20], [10, 50]], [[100.0, 90]]]
    a = 8 * 12 * 2 + 4 * 6
    heads = {
        "deltas": rng.normal(scale=4, size=(2, a, 4)).astype(np.float32),
        "class_logits": rng.normal(scale=4, size=(2, a, 6)).astype(np.float32),
    }
    heads["deltas"][0, 0] = [0, 0, 1e6, 1e6]  # clipped, not infinite
    ours = anchors(heads, (128, 192), strides=strides, shapes=shapes, variances=[0.1, 0.1, 0.2, 0.2])
    theirs = anchors(
        {k: torch.from_numpy(v) for k, v in heads.items()},
        (128, 192),
        strides=strides,
        shapes=shapes,
        variances=[0.1, 0.1, 0.2, 0.2],
    )
    assert np.isfinite(ours[0]).all()
    np.testing.assert_allclose(ours[0], theirs[0].numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(ours[1], theirs[1].numpy(), atol=1e-6)


def test_dense_passes_through() -> None:
    boxes, scores = np.zeros((1, 3, 4), np.float32), np.ones((1, 3, 2), np.float32)
    got = DECODERS["dense"]({"boxes": boxes, "scores": scores}, (32, 32))
    assert got[0] is boxes
    assert got[1] is scores


def test_a_class_map_passes_through() -> None:
    index = np.ones((1, 2, 3), np.uint8)
    assert class_map({"class_map": index}, (2, 3)) is index


def test_the_largest_logit_wins_and_a_tie_goes_to_the_lower_class() -> None:
    logits = np.array([[[[1, 0, 2]], [[0, 5, 2]], [[0, 7, 1]]]], np.float32)  # (1, 3, 1, 3)
    np.testing.assert_array_equal(class_map({"class_logits": logits}, (1, 3)), [[[0, 2, 0]]])
    np.testing.assert_array_equal(
        class_map({"class_logits": torch.from_numpy(logits)}, (1, 3)), [[[0, 2, 0]]]
    )


def test_one_logit_is_a_sigmoid() -> None:
    logit = np.array([[[[-1, 0, 1e-6, 50]]]], np.float32)
    np.testing.assert_array_equal(class_map({"class_logits": logit}, (1, 4)), [[[0, 0, 1, 1]]])
    theirs = class_map({"class_logits": torch.from_numpy(logit)}, (1, 4))
    np.testing.assert_array_equal(theirs, [[[0, 0, 1, 1]]])


def test_logits_at_a_stride_are_interpolated_first() -> None:
    # -1 and 3 on 4 pixels, centres at half coordinates: -1, 0, 2, 3
    logit = np.array([[[[-1, 3]]]], np.float32)
    np.testing.assert_array_equal(class_map({"class_logits": logit}, (1, 4)), [[[0, 0, 1, 1]]])


@pytest.mark.parametrize("size", [(32, 48), (31, 50), (8, 12), (5, 7)])
def test_numpy_and_torch_give_the_same_classes(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(2).normal(size=(2, 5, 8, 12)).astype(np.float32)
    ours = class_map({"class_logits": logits}, size)
    theirs = class_map({"class_logits": torch.from_numpy(logits)}, size)
    assert ours.shape == (2, *size)
    assert (ours == theirs.numpy()).mean() > 0.999  # two logits may be as good as equal


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_regions_that_svms_looked_at(convert: Callable[[np.ndarray], Any]) -> None:
    """A margin of 0 is a score of 0.5, whatever other classes have; a row without a region has none."""
    heads = {
        "proposals": np.array([[[10, 20, 30, 60], [0, 0, 0, 0]]], np.float32),
        "objectness": np.array([[1, 0]], np.float32),
        "margins": np.array([[[0, logit(0.9)], [9, 9]]], np.float32),
        "deltas": np.array([[[0, 0, 0, 0, 0.5, -0.25, np.log(2), 0], [0] * 8]], np.float32),
    }
    boxes, scores = regions({k: convert(v) for k, v in heads.items()}, (64, 64))
    np.testing.assert_allclose(scores, [[[0.5, 0.9], [0, 0]]], atol=1e-6)
    # the second class's box: centre (20, 40) moved by half a width and a quarter height, twice as wide
    np.testing.assert_allclose(boxes[0, 0], [[10, 20, 30, 60], [10, 10, 50, 50]], atol=1e-4)
    with pytest.raises(ValueError, match=r"expected \(N, P, 4\), \(N, P, K\)"):
        regions({k: convert(v[:, :, :4] if k == "deltas" else v) for k, v in heads.items()}, (64, 64))
