"""Average precision as PASCAL VOC defines it: 11-point (VOC2007) and every-point (from VOC2010 on).

Sources: the lecture, "AP"; Everingham et al. 2010, 4.2; the development kit's VOCevaldet.m, whose choices
are kept:

- detections of a class over all images in order of score, ties in the order given;
- each is compared with the object of its class in its image that it overlaps most, whether or not that
  one is taken; it has found it if the IoU is >= the threshold;
- the first to find an object is correct, a later one a false positive;
- a detection of an ignored ("difficult") object counts neither way; ignored objects need not be found.

Boxes are x1, y1 exclusive, so VOC's inclusive "+ 1" is already in their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import pairwise_iou
from edgedet.contract.results import Detections
from edgedet.data.sample import Truth


@dataclass(frozen=True, eq=False)
class Curve:
    """The detections of one class, best first, ignored ones left out.

    correct (d,) bool: whether each found an object; scores (d,); objects: how many there were to find;
    ignored: how many objects did not count.
    """

    correct: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]
    objects: int
    ignored: int

    def precision(self) -> npt.NDArray[np.float64]:
        """(d,): the share of correct ones among the first 1..d detections."""
        return np.asarray(np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1))

    def recall(self) -> npt.NDArray[np.float64]:
        """(d,): the share of objects found by the first 1..d detections; NaN where there are none."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.cumsum(self.correct) / np.float64(self.objects))


def match(
    detections: Sequence[Detections], truths: Sequence[Truth], label: int, *, iou: float = 0.5
) -> Curve:
    """Decide for each detection of class `label` whether it found an object.

    Args:
        detections: one per image.
        truths: one per image, in the same order.
        label: the class, in the numbering of both.
        iou: an overlap of at least this is a find.
    """
    scores: list[npt.NDArray[np.float32]] = []
    owners: list[npt.NDArray[np.int64]] = []  # the object found, numbered over all images; -1: none
    ignored: list[npt.NDArray[np.bool_]] = []
    first = 0
    for found, truth in zip(detections, truths, strict=True):
        mine = found.labels == label
        theirs = truth.labels == label
        boxes, ignore = truth.boxes[theirs], truth.ignore[theirs]
        ignored.append(ignore)
        if mine.any():
            owner = np.full(int(mine.sum()), -1, np.int64)
            if len(boxes):
                overlap = pairwise_iou(found.boxes[mine].astype(np.float64), boxes.astype(np.float64))
                best = overlap.argmax(axis=1)
                hit = overlap[np.arange(len(best)), best] >= iou
                owner[hit] = first + best[hit]
            scores.append(found.scores[mine])
            owners.append(owner)
        first += len(boxes)
    is_ignored = np.concatenate([*ignored, np.zeros(0, bool)])
    objects = int((~is_ignored).sum())
    if not scores:
        return Curve(np.zeros(0, bool), np.zeros(0, np.float32), objects, int(is_ignored.sum()))
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    owner = np.concatenate(owners)[order]
    counts = (owner < 0) | ~np.append(is_ignored, False)[owner]
    owner = owner[counts]
    correct = np.zeros(len(owner), bool)
    _, finders = np.unique(owner, return_index=True)  # where each object is found first
    correct[finders] = True
    correct[owner < 0] = False
    return Curve(correct, score[order][counts], objects, int(is_ignored.sum()))


def best_threshold(curves: Sequence[Curve]) -> tuple[float | None, float | None]:
    """The score to show detections from: (score, F1) where F1 over all classes together is highest.

    F1 = 2 TP / (detections + objects). (None, 0) where no object is found, (None, None) where there is none.
    """
    if not any(c.objects for c in curves):
        return None, None
    scores = np.concatenate([c.scores for c in curves]) if curves else np.zeros(0, np.float32)
    correct = np.concatenate([c.correct for c in curves]) if curves else np.zeros(0, bool)
    if not correct.any():
        return None, 0.0
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(correct[order])
    f1 = 2 * found / (np.arange(1, len(found) + 1) + sum(c.objects for c in curves))
    best = int(f1.argmax())
    return float(scores[order][best]), float(f1[best])


def eleven_point(curve: Curve) -> float | None:
    """AP = 1/11 sum over r in {0, 0.1, ..., 1} of max p(r') for r' >= r; None without objects."""
    if not curve.objects:
        return None
    found, precision = np.cumsum(curve.correct), curve.precision()
    total = 0.0
    for tenth in range(11):
        # recall >= tenth / 10 in whole numbers: 3/10 must reach 0.3
        reached = precision[10 * found >= tenth * curve.objects]
        total += float(reached.max()) if len(reached) else 0.0
    return total / 11


def every_point(curve: Curve) -> float | None:
    """Area under the precision made non-increasing from the right; None without objects."""
    if not curve.objects:
        return None
    envelope = np.maximum.accumulate(curve.precision()[::-1])[::-1]
    # each object found adds a step of 1 / objects
    return float(envelope[curve.correct].sum() / curve.objects)
