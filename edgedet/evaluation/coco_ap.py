"""COCO's AP (Lin et al. 2014): the mean over IoU 0.50 to 0.95, by faster-coco-eval.

Ignored objects are given as COCO's crowds: what lies in them counts neither way. As COCO compares crowds
by the share of the detection that lies inside, this is a little kinder around VOC's "difficult" objects
than VOC's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedet.contract.errors import MissingDependency
from edgedet.contract.results import Detections
from edgedet.data.sample import Truth


@dataclass(frozen=True)
class CocoAP:
    """AP at IoU 0.50:0.95, at 0.50 and at 0.75, all areas, at most 100 detections per image; in [0, 1].

    None where there is nothing to find. per_class: AP at 0.50:0.95, by label.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    per_class: tuple[float | None, ...]


def coco_ap(detections: Sequence[Detections], truths: Sequence[Truth], classes: int) -> CocoAP:
    """COCO AP of one `Detections` per `Truth`, in the same order, labels in 0..classes-1.

    Raises:
        MissingDependency: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise MissingDependency("faster-coco-eval", extra="train", purpose="COCO AP") from None
    gt = COCO(
        {
            "info": {},
            "images": [{"id": i} for i in range(1, len(truths) + 1)],
            "categories": [{"id": k, "name": str(k)} for k in range(1, classes + 1)],
            "annotations": _objects(truths),
        }
    )
    evaluation = COCOeval_faster(gt, gt.loadRes(_results(detections)), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU thresholds, recalls, classes, areas, max detections); -1 where there are no objects
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return CocoAP(
        ap=_mean(precision),
        ap50=_mean(precision[0]),
        ap75=_mean(precision[5]),
        per_class=tuple(_mean(precision[:, :, k]) for k in range(classes)),
    )


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None


def _objects(truths: Sequence[Truth]) -> list[dict[str, Any]]:
    found = [
        (image, box, int(label), bool(ignore))
        for image, t in enumerate(truths, 1)
        for box, label, ignore in zip(_xywh(t.boxes), t.labels, t.ignore, strict=True)
    ]
    return [
        {
            "id": i,
            "image_id": image,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(ignore),
        }
        for i, (image, box, label, ignore) in enumerate(found, 1)
    ]


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
        for image, d in enumerate(detections, 1)
        for box, label, score in zip(_xywh(d.boxes), d.labels, d.scores, strict=True)
    ]


def _xywh(boxes: Any) -> list[list[float]]:
    b = np.asarray(boxes, np.float64)
    rows: list[list[float]] = np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1).tolist()
    return rows
