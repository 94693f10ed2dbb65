"""Matching and sampling against values computed by hand and against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgedet.contract.boxes import pairwise_iou
from edgedet.models.matching import BACKGROUND, IGNORED, match
from edgedet.models.sampling import balanced, hardest_negatives

NONE = torch.zeros(0, dtype=torch.bool)


def row(*starts: float, width: float = 10) -> Tensor:
    """Boxes of one row, 10 px high."""
    return torch.tensor([[x, 0, x + width, 10] for x in starts])


def test_high_low_and_between() -> None:
    # IoU with the object at 0: 1, 8/12 = 0.67, 5/15 = 0.33, 2/18 = 0.11, 0
    anchors = row(0, 2, 5, 8, 50)
    found = match(anchors, row(0), torch.tensor([False]), high=0.6, low=0.3, best_for_each=False)
    assert found.tolist() == [0, 0, IGNORED, BACKGROUND, BACKGROUND]
    # at a threshold: an IoU equal to high is an object, one equal to low is no background
    exactly = match(row(0), row(0, width=5), torch.tensor([False]), high=0.5, low=0.5, best_for_each=False)
    assert exactly.tolist() == [0]
    exactly = match(row(0), row(0, width=5), torch.tensor([False]), high=0.7, low=0.5, best_for_each=False)
    assert exactly.tolist() == [IGNORED]


def test_no_object_goes_without() -> None:
    anchors = row(0, 2, 30, 50)
    boxes = torch.cat(
        [row(0), row(31, width=3), row(200)]
    )  # the second fits no anchor, the third touches none
    nothing = torch.tensor([False, False, False])
    found = match(anchors, boxes, nothing, high=0.7, low=0.3, best_for_each=True)
    assert found.tolist() == [0, IGNORED, 1, BACKGROUND]
    without = match(anchors, boxes, nothing, high=0.7, low=0.3, best_for_each=False)
    assert without.tolist() == [0, IGNORED, IGNORED, BACKGROUND]  # 3/10


def test_of_two_objects_with_one_best_anchor_the_closer_has_it() -> None:
    for order in ([0, 1], [1, 0]):
        boxes = row(3, 6)[order]  # IoU with the anchor 7/13 and 4/16
        found = match(row(0, 90), boxes, torch.tensor([False] * 2), high=0.9, low=0.9, best_for_each=True)
        assert found.tolist() == [order.index(0), BACKGROUND]


def test_what_overlaps_an_ignored_object_is_never_background() -> None:
    anchors = torch.cat([row(0, 2, 8, 50), torch.tensor([[1.0, 1, 4, 4], [-40, -40, 60, 60]])])
    ignore = torch.tensor([True])
    found = match(anchors, row(0), ignore, high=0.6, low=0.3, best_for_each=True)
    # itself, near it; a fifth of it, elsewhere; a part of it; an anchor that it is a small part of
    assert found.tolist() == [IGNORED, IGNORED, BACKGROUND, BACKGROUND, IGNORED, BACKGROUND]
    # an object that must be found outranks it
    both = torch.cat([row(0), row(1)])
    found = match(anchors, both, torch.tensor([True, False]), high=0.6, low=0.3, best_for_each=True)
    assert found.tolist() == [1, 1, BACKGROUND, BACKGROUND, IGNORED, BACKGROUND]


def test_without_objects_all_is_background() -> None:
    found = match(row(0, 5), torch.zeros(0, 4), NONE, high=0.7, low=0.3, best_for_each=True)
    assert found.tolist() == [BACKGROUND, BACKGROUND]
    assert found.dtype == torch.int64


@pytest.mark.parametrize(("high", "low"), [(0.3, 0.5), (0.5, 0.0), (0.5, -1.0)])
def test_thresholds_that_cannot_be_meant(high: float, low: float) -> None:
    with pytest.raises(ValueError, match="0 < low <= high"):
        match(row(0), row(0), torch.tensor([False]), high=high, low=low, best_for_each=False)


def some_boxes(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 200
    return torch.cat([corner, corner + 10 + torch.rand(n, 2, generator=generator) * 100], dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_without_best_for_each_it_is_torchvisions(seed: int) -> None:
    from torchvision.models.detection._utils import Matcher

    anchors, boxes = some_boxes(4000, seed), some_boxes(9, 100 + seed)
    ours = match(anchors, boxes, torch.zeros(9, dtype=torch.bool), high=0.5, low=0.3, best_for_each=False)
    theirs = Matcher(0.5, 0.3)(pairwise_iou(boxes, anchors))
    assert torch.equal(ours, theirs)  # -1 and -2 mean the same there
    assert (ours >= 0).any() and (ours == IGNORED).any()


@pytest.mark.parametrize("seed", range(5))
def test_with_best_for_each_it_is_torchvisions_ssd_matcher(seed: int) -> None:
    from torchvision.models.detection._utils import SSDMatcher

    anchors, boxes = some_boxes(4000, seed), some_boxes(9, 200 + seed)
    ours = match(anchors, boxes, torch.zeros(9, dtype=torch.bool), high=0.5, low=0.5, best_for_each=True)
    overlap = pairwise_iou(boxes, anchors)
    assert len(set(overlap.argmax(dim=1).tolist())) == 9  # else the rules differ
    assert torch.equal(ours, SSDMatcher(0.5)(overlap))


@pytest.mark.parametrize("positives", [0, 10, 400])
def test_a_balanced_sample_is_torchvisions(positives: int) -> None:
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

    matches = torch.full((1000,), BACKGROUND)
    matches[900:] = IGNORED
    matches[:positives] = 3
    torch.manual_seed(5)
    positive, negative = balanced(matches, 256, 0.5)
    torch.manual_seed(5)
    theirs = BalancedPositiveNegativeSampler(256, 0.5)([(matches >= 0).long() - (matches == IGNORED).long()])
    assert sorted(positive.tolist()) == torch.nonzero(theirs[0][0]).flatten().tolist()
    assert sorted(negative.tolist()) == torch.nonzero(theirs[1][0]).flatten().tolist()
    assert len(positive) == min(positives, 128)
    assert len(positive) + len(negative) == 256


def test_few_anchors_are_all_taken() -> None:
    positive, negative = balanced(torch.tensor([0, BACKGROUND, IGNORED, 1, BACKGROUND]), 64, 0.25)
    assert sorted(positive.tolist()) == [0, 3]
    assert sorted(negative.tolist()) == [1, 4]


def test_the_hardest_negatives_three_for_each_positive_of_their_image() -> None:
    loss = torch.tensor([[9.0, 1, 5, 2, 8, 7, 3], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]])
    positive = torch.zeros(3, 7, dtype=torch.bool)
    positive[0, 0] = True
    positive[2, 2:5] = True
    negative = ~positive
    negative[0, 4] = False  # ignored
    chosen = hardest_negatives(loss, positive, negative)
    assert chosen[0].tolist() == [False, False, True, False, False, True, True]
    assert not chosen[1].any()  # no positive, no negative
    assert chosen[2].tolist() == [True, True, False, False, False, True, True]  # fewer than 9: all
    one = hardest_negatives(torch.ones(1, 7), positive[:1], ~positive[:1], ratio=1.0)
    assert one[0].tolist() == [False, True, False, False, False, False, False]  # ties: the lower index
