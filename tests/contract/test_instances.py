"""Masks that stay small: pasting, and the stage that makes them of what NMS kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import place
from edgedet.contract.results import Detections, Instances
from edgedet.contract.spec import Decode, Input, ModelSpec, Output, Stage, Tensor, Thresholds


def instances(boxes, masks):
    n = len(boxes)
    found = Detections(np.asarray(boxes, np.float32), np.full(n, 0.5, np.float32), np.zeros(n, np.int64))
    return Instances(found, np.asarray(masks, np.float32))


def smooth(seed: int, n: int, m: int = 28) -> np.ndarray:
    """Masks with a boundary: a disc in each, of another place and size."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:m, 0:m]
    at = rng.uniform(0.35, 0.65, (n, 2)) * m
    far = np.hypot(y - at[:, 0, None, None], x - at[:, 1, None, None])
    return (1 / (1 + np.exp((far - m * 0.3) / 1.5))).astype(np.float32)


def test_a_mask_as_large_as_its_box_in_whole_pixels_is_pasted_as_it_is():
    mask = np.random.default_rng(0).random((1, 4, 4)).astype(np.float32)
    found = instances([[3, 2, 7, 6]], mask)
    place_, probability = found.window(0, (10, 12))
    assert place_ == (slice(2, 6), slice(3, 7))
    np.testing.assert_allclose(probability, mask[0], atol=1e-6)
    whole = found.paste(0, (10, 12))
    assert whole.shape == (10, 12) and whole[2:6, 3:7].tolist() == (mask[0] > 0.5).tolist()
    assert whole.sum() == (mask > 0.5).sum()


def test_no_half_pixel_shift():
    # a mask whose left half is full, in a box of 8 pixels: 4 pixels left of the middle, by symmetry
    mask = np.zeros((1, 4, 4), np.float32)
    mask[:, :, :2] = 1
    row = instances([[2, 0, 10, 8]], mask).window(0, (8, 12))[1][4]
    np.testing.assert_allclose(row[1:7], [1, 1, 0.75, 0.25, 0, 0], atol=1e-6)


def test_equals_grid_sample():
    """As Detectron2 pastes: torch's own bilinear sampling, at the centres of the frame's pixels."""
    rng = np.random.default_rng(3)
    masks, size = smooth(1, 20), (60, 80)
    low = rng.uniform(-10, 50, (20, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 40, (20, 2))], axis=1).astype(np.float32)
    found = instances(boxes, masks)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        (rows, columns), got = found.window(i, size)
        y, x = np.arange(rows.start, rows.stop) + 0.5, np.arange(columns.start, columns.stop) + 0.5
        gy, gx = np.meshgrid((y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1, indexing="ij")
        grid = torch.from_numpy(np.stack([gx, gy], -1)[None].astype(np.float32))
        want = torch.nn.functional.grid_sample(
            torch.from_numpy(masks[i][None, None]), grid, align_corners=False
        )
        np.testing.assert_allclose(got, want[0, 0].numpy(), atol=1e-4)


def test_near_torchvisions_which_cuts_boxes_to_whole_pixels():
    """Torchvision cuts the corners to whole pixels and counts the last: up to a pixel elsewhere, no more."""
    masks = smooth(2, 6)
    boxes = np.array([[10, 12, 66, 68]] * 6, np.float32) + np.arange(6)[:, None] * 0.3
    want = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (90, 100))
    found = instances(boxes, masks)
    for i in range(6):
        a, b = found.paste(i, (90, 100)), want[i, 0].numpy() > 0.5
        assert (a & b).sum() / (a | b).sum() > 0.93
        centre = [np.argwhere(m).mean(axis=0) for m in (a, b)]
        assert np.abs(centre[0] - centre[1]).max() < 1.0


@pytest.mark.parametrize("box", [[-5, -5, -1, -1], [4, 4, 4, 9], [200, 0, 220, 9], [3.6, 3.6, 4.4, 4.4]])
def test_a_box_without_a_pixel_has_no_mask(box):
    assert not instances([box], np.ones((1, 7, 7))).paste(0, (20, 30)).any()


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="masks"):
        instances([[0, 0, 1, 1]], np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="masks"):
        instances([[0, 0, 1, 1]], np.zeros((1, 4, 5)))


def spec(rows: int = 2, *, masks=(None, 2, 2, 4, 4)) -> ModelSpec:
    """Boxes and scores decoded, one level of features, masks of two classes."""
    stage = Stage(
        "masks",
        "m-masks.onnx",
        (Tensor("level", "features", (None, 3, 2, 2)), Tensor("kept", "boxes", (None, rows, 4))),
        (Tensor("mask_logits", "masks", masks),),
    )
    return ModelSpec(
        model="m",
        task="instance",
        input=Input("images", 40, 80, (0, 0, 0), (1, 1, 1), resize="letterbox"),
        outputs=(
            Output("boxes", "boxes", (None, 3, 4)),
            Output("scores", "scores", (None, 3, 2)),
            Output("level", "features", (None, 3, 2, 2)),
        ),
        decode=Decode("dense"),
        classes=("a", "b"),
        thresholds=Thresholds(score=0.3),
        stages=(stage,),
    )


def outputs():
    """Two images: three objects of classes b, a, b; none."""
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0] = [[20, 0, 30, 10], [25, 20, 45, 40], [0, 0, 15, 40]]
    scores = np.zeros((2, 3, 2), np.float32)
    scores[0] = [[0, 0.9], [0.8, 0], [0, 0.7]]
    return {"boxes": boxes, "scores": scores, "level": np.ones((2, 3, 2, 2), np.float32)}


class Masks:
    """A stage that says in its logits which box and class a mask belongs to; remembers what it got."""

    def __init__(self) -> None:
        self.got: list[dict[str, np.ndarray]] = []

    def __call__(self, tensors):
        self.got.append(dict(tensors))
        boxes = tensors["kept"]
        found = np.zeros((*boxes.shape[:2], 2, 4, 4), np.float32)
        found += boxes[..., 0, None, None, None] / 10
        found[:, :, 1] *= -1
        return {"mask_logits": found}


def test_the_mask_of_the_winning_class_and_boxes_cut_to_the_frame():
    stage = Masks()
    post = make_postprocessor(spec(), {"masks": stage})
    frames = [place(40, 40, spec().input)] * 2  # fills columns 20 to 60
    first, second = post(outputs(), frames)
    assert isinstance(first, Instances) and len(second) == 0 and second.masks.shape == (0, 4, 4)
    # the third box lies in the letterbox: nothing of it is in the frame
    np.testing.assert_allclose(first.detections.boxes, [[0, 0, 10, 10], [5, 20, 25, 40], [0, 0, 0, 40]])
    assert len(stage.got) == 2, "three boxes, two rows"
    np.testing.assert_allclose(stage.got[0]["kept"][0], [[20, 0, 30, 10], [25, 20, 45, 40]])
    np.testing.assert_allclose(stage.got[1]["kept"][0], [[20, 0, 20, 40], [0, 0, 0, 0]])
    assert stage.got[0]["level"].shape == (2, 3, 2, 2)
    logits = np.array([-2.0, 2.5, -2.0])  # class b is negated
    np.testing.assert_allclose(first.masks[:, 0, 0], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_nothing_kept_runs_no_stage():
    stage = Masks()
    empty = {k: np.zeros_like(v) for k, v in outputs().items()}
    found = make_postprocessor(spec(), {"masks": stage})(empty, [place(40, 40, spec().input)])
    assert len(found[0]) == 0 and not stage.got


def test_what_is_wrong_is_named():
    with pytest.raises(SpecError, match="needs an engine for its stage 'masks'"):
        make_postprocessor(spec())
    with pytest.raises(SpecError, match="expected"):
        make_postprocessor(spec(masks=(None, 2, 3, 4, 4)), {"masks": Masks()})
    with pytest.raises(SpecError, match="0 stages"):
        make_postprocessor(spec().with_(stages=()))
    wide = spec().stages[0]
    wide = replace(wide, inputs=(Tensor("level", "features", (None, 3, 4, 4)), wide.inputs[1]))
    with pytest.raises(SpecError, match="'level'"):
        make_postprocessor(spec().with_(stages=(wide,)), {"masks": Masks()})

    def broken(tensors):
        return {"mask_logits": np.full((2, 2, 2, 4, 4), np.nan, np.float32)}

    with pytest.raises(EngineError, match="not finite"):
        make_postprocessor(spec(), {"masks": broken})(outputs(), [place(40, 40, spec().input)] * 2)


def test_one_mask_for_all_classes():
    def shared(tensors):
        return {"mask_logits": np.full((2, 2, 1, 4, 4), 3.0, np.float32)}

    found = make_postprocessor(spec(masks=(None, 2, 1, 4, 4)), {"masks": shared})
    first = found(outputs(), [place(40, 40, spec().input)] * 2)[0]
    assert isinstance(first, Instances)
    np.testing.assert_allclose(first.masks, 1 / (1 + np.exp(-3.0)), rtol=1e-5)
