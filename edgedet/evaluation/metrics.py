"""What an evaluation found, as a value: JSON for machines; the tables are in report.py.

Where there was nothing to measure a figure is None, never 0, and `not_measured` says why.
"""

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
    coco_ap / coco_ap50 / coco_ap75: None where not computed; mask_ap / mask_ap50 / mask_ap75: COCO's over the
    overlap of masks, None where model or data has none; best_score: the score threshold at which F1
    over all classes is highest, None where nothing is found; best_f1: that F1, None without objects;
    notes: what a reader must know; not_measured: why there are no figures, empty where there are.
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
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None
    best_score: float | None = None
    best_f1: float | None = None
    notes: tuple[str, ...] = ()
    not_measured: str = ""

    @property
    def ap11(self) -> float | None:
        """Mean 11-point AP over the classes that have objects, in [0, 1]; None if no class has."""
        return _mean(c.ap11 for c in self.classes)

    @property
    def ap_every(self) -> float | None:
        """Mean every-point AP over the classes that have objects, in [0, 1]; None if no class has."""
        return _mean(c.ap_every for c in self.classes)

    def to_json(self) -> str:
        """One JSON object, the means `ap11` and `ap_every` included; floats exact."""
        return json.dumps({"ap11": self.ap11, "ap_every": self.ap_every, **asdict(self)}, sort_keys=True)


@dataclass(frozen=True)
class ClassPixels:
    """One class of a semantic model. truth, predicted: its pixels in either, those that count.

    iou and dice in [0, 1], over all images together; None where the class is in neither.
    """

    name: str
    truth: int
    predicted: int
    iou: float | None
    dice: float | None


@dataclass(frozen=True)
class Trimap:
    """The mean IoU of the pixels at most `radius` from a boundary of the truth; pixels: how many.

    mean_iou: None without such pixels.
    """

    radius: int
    mean_iou: float | None
    pixels: int


@dataclass(frozen=True)
class SegmentationMetrics:
    """Accuracy of a class per pixel on one data set, void left out.

    data, fingerprint, images, notes: as in `Metrics`; skipped: images that could not be read, or whose
    masks could not be used; pixels: how many count; pixel_accuracy: the share of them that is right, None
    without any; classes: those that model and data share; trimaps: by growing radius, if they were asked
    for; not_measured: why there are no figures, empty where there are.
    """

    data: str
    fingerprint: str
    images: int
    skipped: int
    pixels: int
    pixel_accuracy: float | None
    classes: tuple[ClassPixels, ...]
    trimaps: tuple[Trimap, ...] = ()
    notes: tuple[str, ...] = ()
    not_measured: str = ""

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU over the classes that are in truth or prediction, in [0, 1]; None if none is."""
        return _mean(c.iou for c in self.classes)

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice over the classes that are in truth or prediction, in [0, 1]; None if none is."""
        return _mean(c.dice for c in self.classes)

    def to_json(self) -> str:
        """One JSON object, the means `mean_iou` and `mean_dice` included; floats exact."""
        means = {"mean_iou": self.mean_iou, "mean_dice": self.mean_dice}
        return json.dumps({**means, **asdict(self)}, sort_keys=True)


@dataclass(frozen=True)
class ClassLocalisation:
    """The images of one class: how many, and the figures of `LocalisationMetrics`; None without images."""

    name: str
    images: int
    mean_iou: float | None
    class_accuracy: float | None
    localised: float | None


@dataclass(frozen=True)
class LocalisationMetrics:
    """Accuracy of one box an image on the images with exactly one object.

    data, fingerprint, notes: as in `Metrics`; images: those with one object that were evaluated; skipped:
    images that could not be read; mean_iou: of the box said and the object's, over the images;
    class_accuracy: share of images whose class is right; localised: share with an IoU of at least 0.5 and
    the right class; all in [0, 1], None without images; classes: those that model and data share;
    not_measured: why there are no figures, empty where there are.
    """

    data: str
    fingerprint: str
    images: int
    skipped: int
    mean_iou: float | None
    class_accuracy: float | None
    localised: float | None
    classes: tuple[ClassLocalisation, ...]
    notes: tuple[str, ...] = ()
    not_measured: str = ""

    def to_json(self) -> str:
        """One JSON object; floats exact."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class ProposalMetrics:
    """How many objects regions give a detector the chance to find, on one data set.

    data, fingerprint, notes: as in `Metrics`; images: how many were evaluated; skipped: how many could not be
    read; iou: the overlap that counts; objects: those that count; recall: the share of them that a proposal
    overlaps, in [0, 1], None without any; proposals: of an image, in the mean; not_measured: why there is no
    recall, empty where there is.
    """

    data: str
    fingerprint: str
    images: int
    skipped: int
    iou: float
    objects: int
    recall: float | None
    proposals: float
    notes: tuple[str, ...] = ()
    not_measured: str = ""

    def to_json(self) -> str:
        """One JSON object; floats exact."""
        return json.dumps(asdict(self), sort_keys=True)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
