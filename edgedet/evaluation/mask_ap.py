"""COCO's AP over the overlap of masks (Lin et al. 2014; lecture, "Mask R-CNN" and "AP").

Its rules, as pycocotools has them: detections of a class in order of score, at most 100 of an image; each
takes the free object that it overlaps most, if by the threshold or more, those that count before ignored
ones; what matches an ignored object counts neither way, and any number of detections may; the overlap with a
crowd is the share of the detection that lies inside. Precision is made non-increasing and read at 101
recalls.

Masks are looked at one image at a time, each in its own box: memory holds numbers, not pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgedet.contract.results import Instances
from edgedet.evaluation.coco_ap import CocoAP

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100
"""Detections of a class in an image that are looked at."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass
class _Class:
    """Of one class, an entry an image: scores; for each threshold what was matched and what is ignored."""

    objects: int = 0
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    matched: list[Bools] = field(default_factory=list)
    ignored: list[Bools] = field(default_factory=list)


class MaskAP:
    """Takes image after image, then says the AP. Labels are 0 .. `classes` - 1."""

    def __init__(self, classes: int) -> None:
        self._classes = [_Class() for _ in range(classes)]

    def add(self, found: Instances, masks: Bools, labels: npt.NDArray[np.int64], ignore: Bools) -> None:
        """One image: what was found, and the truth.

        Args:
            masks: (n, H, W). labels: (n,). ignore: (n,), crowds and objects that do not count.
        """
        mine = found.detections
        for k in sorted({*mine.labels.tolist(), *labels.tolist()}):
            order = np.argsort(-mine.scores, kind="stable")
            chosen = order[mine.labels[order] == k][:MOST]
            own = np.flatnonzero(labels == k)
            own = own[np.argsort(ignore[own], kind="stable")]  # those that count first
            overlap = mask_iou(found, chosen, masks[own], ignore[own])
            matched, ignored = _match(overlap, ignore[own])
            record = self._classes[k]
            record.objects += int((~ignore[own]).sum())
            record.scores.append(mine.scores[chosen])
            record.matched.append(matched)
            record.ignored.append(ignored)

    def result(self, labels: Sequence[int] | None = None) -> CocoAP:
        """AP of those of `labels` (all by default) that have objects; None where none has."""
        wanted = set(range(len(self._classes)) if labels is None else labels)
        precision = np.stack(
            [_precision(c if k in wanted else _Class()) for k, c in enumerate(self._classes)], axis=-1
        )  # (10, 101, K), -1 = none
        return CocoAP(
            ap=_mean(precision),
            ap50=_mean(precision[0]),
            ap75=_mean(precision[5]),
            per_class=tuple(_mean(precision[..., k]) for k in range(len(self._classes))),
        )


def mask_iou(found: Instances, chosen: npt.NDArray[np.int64], masks: Bools, crowd: Bools) -> Floats:
    """(d, n): IoU of the masks `chosen` of `found` with (n, H, W); with a crowd, the share inside it."""
    size = (masks.shape[1], masks.shape[2])
    areas = masks.sum(axis=(1, 2))
    overlap = np.zeros((len(chosen), len(masks)))
    for row, i in zip(overlap, chosen.tolist(), strict=True):
        (rows, columns), probability = found.window(i, size)
        inside = probability > 0.5
        area = int(inside.sum())
        common = (masks[:, rows, columns] & inside).sum(axis=(1, 2))
        union = np.where(crowd, area, area + areas - common)
        row[:] = common / np.maximum(union, 1)
    return overlap


def _match(overlap: Floats, ignore: Bools) -> tuple[Bools, Bools]:
    """(d, n), best detections and objects that count first -> matched and ignored (10, d)."""
    shape = (len(THRESHOLDS), len(overlap))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for t, threshold in enumerate(THRESHOLDS.tolist()):
        taken = np.zeros(len(ignore), bool)
        for d, row in enumerate(overlap):
            # an ignored object is a crowd here: any number of detections may lie in it
            able = (row >= min(threshold, 1 - 1e-10)) & (~taken | ignore)
            for kind in (able & ~ignore, able & ignore):
                if kind.any():
                    # the last of equal ones, as COCO's loop takes it
                    best = len(row) - 1 - int(np.where(kind, row, -1.0)[::-1].argmax())
                    taken[best] = matched[t, d] = True
                    ignored[t, d] = ignore[best]
                    break
    return matched, ignored


def _precision(record: _Class) -> Floats:
    """(10, 101); -1 without objects."""
    out = np.full((len(THRESHOLDS), len(RECALLS)), -1.0)
    if not record.objects:
        return out
    scores = np.concatenate([*record.scores, np.zeros(0, np.float32)])
    order = np.argsort(-scores, kind="stable")
    none = np.zeros((len(THRESHOLDS), 0), bool)
    matched = np.concatenate([*record.matched, none], axis=1)[:, order]
    ignored = np.concatenate([*record.ignored, none], axis=1)[:, order]
    right, wrong = np.cumsum(matched & ~ignored, axis=1), np.cumsum(~matched & ~ignored, axis=1)
    for t, (tp, fp) in enumerate(zip(right, wrong, strict=True)):
        precision = tp / np.maximum(tp + fp, np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(tp / record.objects, RECALLS, side="left")
        out[t] = np.append(envelope, 0.0)[at]
    return out


def _mean(precision: Floats) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
