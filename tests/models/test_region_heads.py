from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from edgedet.contract.decode import regions as decode_regions
from edgedet.contract.nms import nms
from edgedet.contract.spec import Thresholds
from edgedet.contract.targets import Targets
from edgedet.models.region_heads import (
    BoxHead,
    RpnHead,
    label_regions,
    rpn_training_loss,
    sample_regions,
)


def one_object(box: list[float], label: int = 1, *, ignore: bool = False) -> Targets:
    return Targets(torch.tensor([box]), torch.tensor([label]), torch.tensor([ignore]))


def test_rpn_head_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = RpnHead(8, 3), RPNHead(8, 3)
    pairs = [
        (theirs.conv[0][0], ours.conv[0]),
        (theirs.cls_logits, ours.objectness),
        (theirs.bbox_pred, ours.deltas),
    ]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    levels = [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]  # activations stay below ReLU6's 6
    logits, deltas = ours(levels)
    their_logits, their_deltas = theirs(levels)
    for level in range(2):
        n, _, h, w = their_logits[level].shape
        expected = their_logits[level].permute(0, 2, 3, 1).reshape(n, -1)
        moved = their_deltas[level].reshape(n, 3, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 4)
        torch.testing.assert_close(logits[level], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(deltas[level], moved, rtol=1e-4, atol=1e-4)


def test_box_head_is_torchvisions_dense_layers() -> None:
    torch.manual_seed(0)
    ours = BoxHead(8, 3, hidden=16)
    dense, last = TwoMLPHead(8 * 49, 16), FastRCNNPredictor(16, 4)
    fc6, fc7 = ours.fc6[0], ours.fc7[0]
    assert isinstance(fc6, nn.Conv2d) and isinstance(fc7, nn.Conv2d)
    with torch.no_grad():
        for layer in (dense.fc6, dense.fc7):
            layer.bias.zero_()
        dense.fc6.weight.copy_(fc6.weight.flatten(1))
        dense.fc7.weight.copy_(fc7.weight.flatten(1))
        last.cls_score.weight.copy_(ours.class_logits.weight.flatten(1))
        last.cls_score.bias.zero_()
        last.bbox_pred.weight[4:].copy_(ours.deltas.weight.flatten(1))  # theirs has a box of background
        last.bbox_pred.bias.zero_()
    regions = torch.randn(2, 5, 8, 7, 7) * 0.5
    logits, deltas = ours(regions)
    their_logits, their_deltas = last(dense(regions.flatten(0, 1)))
    torch.testing.assert_close(logits.flatten(0, 1), their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deltas.flatten(0, 1), their_deltas[:, 4:], rtol=1e-4, atol=1e-4)


def test_rpn_loss_by_hand() -> None:
    """IoU 1 is an object, 0.5 is ignored, 0 is background."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
    logits = torch.tensor([[1.0, 9.0, -2.0]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 0] = torch.tensor([0.5, 2.0, 0, 0])
    terms = rpn_training_loss(logits, deltas, anchors, [one_object([0.0, 0, 10, 10])])
    classes = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))
    assert terms["rpn_class"].item() == pytest.approx(classes / 256)
    assert terms["rpn_box"].item() == pytest.approx((0.125 + 1.5) * 10 / 2400)


def test_regions_are_labelled_and_their_loss_is_right_by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 25], [0, 0, 0, 0]]])
    found = label_regions(boxes, [one_object([0.0, 0, 10, 10], 1)])
    assert found.labels.tolist() == [[2, 2, 0, -1]]  # IoU 1, 9/11, 0.4, no region
    logits, deltas = torch.zeros(1, 4, 4), torch.zeros(1, 4, 12)
    terms = found.loss(logits, deltas)
    assert terms["class"].item() == pytest.approx(math.log(4))
    # the second lacks -1 pixel of 10, divided by 0.1: a difference of 1, so smooth L1 is 0.5
    assert terms["box"].item() == pytest.approx(0.5 / 3)


def test_what_shows_an_ignored_object_is_no_region() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    found = label_regions(boxes, [one_object([0.0, 0, 10, 10], ignore=True)])
    assert found.labels.tolist() == [[-1, 0]]


def test_the_sample_holds_the_objects_own_boxes_and_a_quarter_of_positives() -> None:
    torch.manual_seed(0)
    far = torch.tensor([60.0, 60, 70, 70]).expand(2, 20, 4)
    truth = [
        one_object([0.0, 0, 10, 10], 2),
        Targets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool()),
    ]
    found = sample_regions(far, truth, sampled=8)
    assert sorted(found.labels[0].tolist()) == [0] * 7 + [3]
    own = found.labels[0] == 3
    assert found.boxes[0, own].tolist() == found.truth[0, own].tolist() == [[0, 0, 10, 10]]
    assert found.labels[1].tolist() == [0] * 8
    near = torch.tensor([0.0, 0, 10, 11]).expand(1, 20, 4)
    assert (sample_regions(near, truth[:1], sampled=8).labels > 0).sum() == 2
    # where there are fewer than wanted, rows are left unused
    few = sample_regions(far[:1, :3], truth[:1], sampled=8)
    assert (few.labels == -1).sum() == 4
    assert not few.boxes[few.labels == -1].any()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_box_for_each_class_decoded_by_hand(kind: str) -> None:
    heads = {
        "proposals": np.array([[[10.0, 10, 30, 20], [0, 0, 0, 0]]], np.float32),
        "objectness": np.array([[0.9, 0.0]], np.float32),
        "class_logits": np.log(np.array([[[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]], np.float32)),
        "deltas": np.zeros((1, 2, 8), np.float32),
    }
    heads["deltas"][0, 0] = [1, 0, 0, 0, 0, 0, math.log(2) / 0.2, 0]
    given = heads if kind == "numpy" else {k: torch.from_numpy(v) for k, v in heads.items()}
    boxes, scores = decode_regions(given, (64, 36), variances=[0.1, 0.1, 0.2, 0.2])
    # the first class moves by 0.1 of the width, the second doubles it and is cut at the border
    np.testing.assert_allclose(boxes[0, 0], [[12, 10, 32, 20], [0, 10, 36, 20]], atol=1e-5)
    np.testing.assert_allclose(scores[0], [[0.5, 0.3], [0, 0]], atol=1e-6)
    index, labels = nms(np.asarray(boxes[0]), np.asarray(scores[0]), Thresholds(score=0.1, iou=0.9))
    assert index.tolist() == [0, 0]
    assert labels.tolist() == [0, 1]


def test_decoding_refuses_heads_that_do_not_fit() -> None:
    heads = {
        "proposals": np.zeros((1, 2, 4), np.float32),
        "objectness": np.zeros((1, 2), np.float32),
        "class_logits": np.zeros((1, 2, 3), np.float32),
        "deltas": np.zeros((1, 2, 12), np.float32),
    }
    with pytest.raises(ValueError, match=r"expected \(N, P, 4\), \(N, P, K\) and \(N, P, 4 K\)"):
        decode_regions(heads, (64, 64))
    with pytest.raises(ValueError, match="four positive"):
        decode_regions(heads, (64, 64), variances=[0.1])
