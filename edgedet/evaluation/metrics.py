"""What an evaluation found, as a value: JSON for machines; the tables are in report.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ClassMetrics:
    """One class. APs in [0, 1], None where it has no objects (or COCO AP was not computed).

    objects: those that count; ignored: "difficult" ones and crowds; detections: those that count.
    """

    name: str
    objects: int
    ignored: int
    detections: int
    ap11: float | None
    ap_every: float | None
    coco_ap: float | None = None


@dataclass(frozen=True)
class Metrics:
    """Accuracy on one data set.

    data: its name; fingerprint: of its labels; images: how many were evaluated; skipped: how many could
    not be read; iou: the overlap of the VOC figures; classes: those that model and data share;
    coco_ap / coco_ap50 / coco_ap75: None where not computed; best_score: the score threshold at which F1
    over all classes is highest, best_f1: that F1; notes: what a reader must know.
    """

    data: str
    fingerprint: str
    images: int
    skipped: int
    iou: float
    classes: tuple[ClassMetrics, ...]
    coco_ap: float | None = None
    coco_ap50: float | None = None
    coco_ap75: float | None = None
    best_score: float = 0.0
    best_f1: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def ap11(self) -> float:
        """Mean 11-point AP over the classes that have objects, in [0, 1]."""
        return _mean(c.ap11 for c in self.classes)

    @property
    def ap_every(self) -> float:
        """Mean every-point AP over the classes that have objects, in [0, 1]."""
        return _mean(c.ap_every for c in self.classes)

    def to_json(self) -> str:
        """One JSON object, the means `ap11` and `ap_every` included; floats exact."""
        return json.dumps({"ap11": self.ap11, "ap_every": self.ap_every, **asdict(self)}, sort_keys=True)


def _mean(values: Iterable[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else 0.0
