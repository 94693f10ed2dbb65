"""Which anchors (or proposals) answer for which objects: the rule of IoU thresholds that detectors share."""

from __future__ import annotations

import torch
from torch import Tensor

from edgedet.contract.boxes import area, intersection, pairwise_iou

BACKGROUND = -1
"""The anchor shows no object."""

IGNORED = -2
"""The anchor says nothing: neither trained on as an object nor as background."""

INSIDE = 0.5
"""Of an anchor's area: with more of it inside an ignored object, the anchor is ignored."""


def match(
    anchors: Tensor,
    boxes: Tensor,
    ignore: Tensor,
    *,
    high: float,
    low: float,
    best_for_each: bool,
) -> Tensor:
    """For each anchor the object that it answers for, `BACKGROUND` or `IGNORED`.

    An anchor answers for the object that it overlaps most if their IoU is at or above `high`. It is
    background if its IoU with every object is below `low`, and ignored between the two. With `best_for_each`
    the anchor of highest IoU with an object answers for it whatever that IoU is (above 0), so that no object
    goes without; if two objects have the same, the one with the higher IoU has it.

    Objects that are ignored (`Targets.ignore`) are answered for by none. What would be background but
    overlaps one, by an IoU of `low` or with more than half of its own area (parts of a crowd), is ignored.

    Lecture: Faster R-CNN, "1 for the best-IoU anchor of each ground truth and for IoU > 0.7, 0 for IoU < 0.3,
    the rest ignored" (Ren et al. 2016, 3.1.2): high=0.7, low=0.3, best_for_each. SSD (Liu et al. 2016, 2.2):
    0.5, 0.5, best_for_each. Regions (Girshick 2015, 2.3): 0.5, 0.5 or another `low`, without.

    Args:
        anchors: (A, 4) xyxy. boxes: (m, 4) xyxy. ignore: (m,) bool.

    Returns:
        (A,) int64: an index into `boxes`, -1 (`BACKGROUND`) or -2 (`IGNORED`).

    Raises:
        ValueError: not 0 < low <= high.
    """
    if not 0 < low <= high:
        raise ValueError(f"thresholds low {low} and high {high}, expected 0 < low <= high")
    found = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0 or len(anchors) == 0:
        return found
    boxes, ignore = boxes.to(anchors), ignore.to(anchors.device)
    overlap = pairwise_iou(anchors, boxes)  # (A, m)
    for_objects = overlap.masked_fill(ignore, 0)
    highest, answered = for_objects.max(dim=1)
    found[highest >= low] = IGNORED
    positive = highest >= high
    found[positive] = answered[positive]
    if best_for_each:
        best, anchor = for_objects.max(dim=0)  # (m,)
        for j in best.argsort(stable=True).tolist():  # the highest IoU last: it stays
            if best[j] > 0:
                found[anchor[j]] = j
    if bool(ignore.any()):
        inside = intersection(anchors[:, None], boxes[None]) > INSIDE * area(anchors)[:, None]
        near = ((overlap >= low) | inside)[:, ignore].any(dim=1)
        found[near & (found == BACKGROUND)] = IGNORED
    return found
