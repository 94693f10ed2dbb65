"""Whether two engines find the same."""

from __future__ import annotations

import numpy as np

from edgedet.contract.boxes import pairwise_iou
from edgedet.contract.results import Detections


def same(a: Detections, b: Detections, iou: float) -> int:
    """How many pairs of a detection of `a` and one of `b` are of the same class and overlap by `iou` or more.

    No detection is in two pairs; those that overlap most are paired first. The F1 of one engine with another
    as the truth is 2 same / (len(a) + len(b)), summed over images.
    """
    overlap = pairwise_iou(a.boxes.astype(np.float64), b.boxes.astype(np.float64))
    overlap[a.labels[:, None] != b.labels[None]] = 0
    pairs = 0
    while overlap.size and overlap.max() >= iou:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[row], overlap[:, column] = 0, 0
        pairs += 1
    return pairs
