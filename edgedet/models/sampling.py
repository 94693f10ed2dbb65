"""Which anchors or regions of an image a step trains on: most show background, and would drown the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from edgedet.models.matching import BACKGROUND


def balanced(matches: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """A random sample of positives and negatives.

    At most `positive_share` of `count` are positive; negatives fill the rest, whatever the share of positives
    became. Faster R-CNN's RPN takes 256 with up to 1/2 (Ren et al. 2016, 3.1.3), Fast R-CNN's head 64 with up
    to 1/4 of each image (Girshick 2015, 2.3). Random numbers are torch's global ones.

    Args:
        matches: (A,) of `matching.match`. count: anchors to take.

    Returns:
        indices of positives (p,) and of negatives (n,), p + n <= count.
    """
    positive = torch.nonzero(matches >= 0).flatten()
    negative = torch.nonzero(matches == BACKGROUND).flatten()
    p = min(len(positive), int(count * positive_share))
    n = min(len(negative), count - p)
    chosen = torch.randperm(len(positive), device=matches.device)[:p]
    others = torch.randperm(len(negative), device=matches.device)[:n]
    return positive[chosen], negative[others]


def hardest_negatives(loss: Tensor, positive: Tensor, negative: Tensor, ratio: float = 3.0) -> Tensor:
    """The negatives that an image's step trains on: those of the highest loss, `ratio` for each positive.

    Hard negative mining as in SSD (Liu et al. 2016, 2.2, "at most 3:1"; lecture, "Hard negative mining"). An
    image without positives has none. Of equal losses the anchor of the lower index goes first.

    Args:
        loss: (N, A) of taking each anchor for background. positive, negative: (N, A) bool.

    Returns:
        (N, A) bool, true for those chosen.
    """
    ranked = loss.detach().masked_fill(~negative, float("-inf"))
    rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (ratio * positive.sum(dim=1, keepdim=True)).long()
    return negative & (rank < wanted)
