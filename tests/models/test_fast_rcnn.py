from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import ops
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from edgedet.contract.errors import DataError
from edgedet.contract.targets import Targets
from edgedet.models import build
from edgedet.models.fast_rcnn import FastRcnn

SIZE = (128, 96)
K = 3


def fresh(**options: int) -> FastRcnn:
    torch.manual_seed(0)
    model = build("fast-rcnn", K, pretrained=False, **{"proposals": 24, "sampled": 16, **options}).eval()
    assert isinstance(model, FastRcnn)
    return model


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def boxes(count: int = 24) -> Tensor:
    """(2, count, 4), all over the image and across its border; the last three of the second hold none."""
    corners = torch.rand(2, count, 2, 2, generator=torch.Generator().manual_seed(2))
    found = (corners.sort(dim=2).values * 1.2 - 0.1) * torch.tensor([SIZE[1], SIZE[0]])
    found[1, -3:] = 0
    return found.flatten(2)


@torch.no_grad()
def test_both_forms_of_the_network_are_equal() -> None:
    model = fresh()
    plain = model(images(), boxes())
    model.operators = True
    for role, value in model(images(), boxes()).items():
        torch.testing.assert_close(value, plain[role], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_computes_what_torchvisions_parts_do() -> None:
    """RoI max pooling, the two layers and both branches, with the same weights."""
    model = fresh()
    for parameter in model.box_head.parameters():  # that nothing is nearly zero
        torch.nn.init.normal_(parameter, std=0.05)
    features = model.features(images())
    assert features.shape == (2, 128, SIZE[0] // 16, SIZE[1] // 16)
    cut = [ops.clip_boxes_to_image(b, SIZE) for b in boxes()]
    pooled = ops.roi_pool(features, cut, 7, 1 / 16)

    head, last = TwoMLPHead(128 * 49, 512), FastRCNNPredictor(512, K + 1)
    ours = model.box_head
    pairs = (
        (head.fc6, ours.fc6[0]),
        (head.fc7, ours.fc7[0]),
        (last.cls_score, ours.class_logits),
    )
    for theirs, mine in pairs:
        theirs.weight.copy_(mine.weight.flatten(1))
        theirs.bias.copy_(mine.bias)
    last.bbox_pred.weight[4:].copy_(ours.deltas.weight.flatten(1))  # theirs has a box for the background
    last.bbox_pred.bias[4:].copy_(ours.deltas.bias)
    hidden = functional.relu6(head.fc7(functional.relu6(head.fc6(pooled.flatten(1)))))
    logits, deltas = last(hidden)

    found = model(images(), boxes())
    torch.testing.assert_close(found["proposals"], torch.stack(cut))
    torch.testing.assert_close(found["class_logits"].flatten(0, 1), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["deltas"].flatten(0, 1), deltas[:, 4:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_without_a_proposal_find_nothing() -> None:
    model = fresh()
    heads = model(images(), boxes())
    assert heads["objectness"].tolist() == [[1.0] * 24, [1.0] * 21 + [0.0] * 3]
    scores = model.decode(heads, SIZE)["scores"]
    assert (scores[1, -3:] == 0).all()
    assert (scores[1, :-3] > 0).all()
    nothing = model(images(), torch.zeros(2, 24, 4))
    assert not model.decode(nothing, SIZE)["scores"].any()
    assert all(torch.isfinite(value).all() for value in nothing.values())


@torch.no_grad()
def test_one_proposal_is_enough() -> None:
    model, many = fresh(proposals=1), fresh()
    one = model(images(), boxes()[:, :1])
    for role, value in many(images(), boxes()).items():
        torch.testing.assert_close(one[role], value[:, :1], rtol=1e-4, atol=1e-5)


def said(**options: int) -> FastRcnn:
    """Says the same of every region: class logits 0 but for 2 of class 1, deltas 0."""
    model = fresh(**options)
    with torch.no_grad():
        for parameter in (*model.box_head.class_logits.parameters(), *model.box_head.deltas.parameters()):
            parameter.zero_()
        bias = model.box_head.class_logits.bias
        assert bias is not None
        bias[2] = 2
    return model


TOTAL = torch.log(3 + torch.tensor(2.0).exp())
"""-log p of a region of background; of one of class 1, it is less by 2."""


def test_the_loss_by_hand() -> None:
    """One object of class 1; a proposal that overlaps it by 0.8, one by 1/3, one that shows nothing."""
    model = said(sampled=64)
    truth = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    proposals = torch.tensor([[0.0, 0.0, 40.0, 32.0], [0.0, 0.0, 60.0, 80.0], [50.0, 50.0, 90.0, 90.0]])
    proposals = torch.cat([proposals, torch.zeros(2, 4)])
    target = Targets(truth, torch.tensor([1]), torch.tensor([False]), proposals=proposals)
    terms = model.training_loss(torch.zeros(1, 3, *SIZE), [target])

    # four regions: two that show the object (the first, and its own box) and two of background
    torch.testing.assert_close(terms["class"], (2 * (TOTAL - 2) + 2 * TOTAL) / 4)
    # the first has dy = (20 - 16) / 32 / 0.1 and dh = log(40 / 32) / 0.2, both above 1: |x| - 0.5
    dy, dh = 4 / 32 / 0.1, torch.log(torch.tensor(40 / 32)) / 0.2
    torch.testing.assert_close(terms["box"], ((dy - 0.5) + (dh - 0.5)) / 4)

    heads = model(torch.zeros(1, 3, *SIZE), proposals[None])
    terms = model.loss(heads, [target])  # of all proposals, without the object's own box
    torch.testing.assert_close(terms["class"], ((TOTAL - 2) + 2 * TOTAL) / 3)
    torch.testing.assert_close(terms["box"], ((dy - 0.5) + (dh - 0.5)) / 3)


def test_a_sample_is_a_quarter_objects_at_most() -> None:
    own = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
    near = own + torch.arange(30.0)[:, None] / 10
    far = torch.tensor([[70.0, 70.0, 90.0, 100.0]]) + torch.arange(30.0)[:, None] / 10
    target = Targets(own, torch.tensor([1]), torch.tensor([False]), proposals=torch.cat([near, far]))
    terms = said(sampled=16).training_loss(torch.zeros(1, 3, *SIZE), [target])
    torch.testing.assert_close(terms["class"], (4 * (TOTAL - 2) + 12 * TOTAL) / 16)


def test_targets_without_proposals_are_refused() -> None:
    target = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(DataError, match="2 of 2 images come without proposals"):
        fresh().training_loss(images(), [target, target])


def test_its_spec_says_where_proposals_come_from() -> None:
    model = fresh(proposals=300)
    wanted = model.proposals()
    assert (wanted.method, wanted.count) == ("selective_search", 300)
    assert [(o.role, o.shape) for o in model.outputs(SIZE)] == [
        ("proposals", (None, 300, 4)),
        ("objectness", (None, 300)),
        ("class_logits", (None, 300, 4)),
        ("deltas", (None, 300, 12)),
    ]
