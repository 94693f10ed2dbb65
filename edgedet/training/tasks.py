"""What the training loop must know of a task: how samples are augmented, and what a validation measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torchvision.transforms import v2

from edgedet.contract.spec import Task
from edgedet.data import Dataset
from edgedet.data.augment import detection_transform, segmentation_transform
from edgedet.data.augment_localisation import localisation_transform
from edgedet.data.one_object import with_one_object
from edgedet.evaluation import (
    LocalisationMetrics,
    Metrics,
    SegmentationMetrics,
    evaluate,
    evaluate_localisation,
    evaluate_semantic,
)
from edgedet.training.recipe import Recipe

Measured: TypeAlias = Metrics | SegmentationMetrics | LocalisationMetrics
"""What a validation finds."""


def _all(data: Dataset) -> Dataset:
    return data


@dataclass(frozen=True)
class Training:
    """One task.

    score: the measure's name in messages; metric: its key in `ModelSpec.metrics`, before "@data";
    transform: (input size, recipe, fill, mild) -> the augmentation, `mild` in the last epochs;
    evaluate: (predict, dataset, limit=, progress=) -> metrics; value: metrics -> the score, in [0, 1],
    None if there was nothing to measure; semantic: trained on class maps, not on boxes; instances: with a
    mask for each box; select: the images of a data set that are of use.
    """

    score: str
    metric: str
    transform: Callable[[tuple[int, int], Recipe, tuple[int, int, int], bool], v2.Compose]
    evaluate: Callable[..., Measured]
    value: Callable[[Measured], float | None]
    semantic: bool = False
    instances: bool = False
    select: Callable[[Dataset], Dataset] = _all


def _ap11(metrics: Measured) -> float | None:
    assert isinstance(metrics, Metrics)
    return metrics.ap11 if any(c.objects for c in metrics.classes) else None


def _mask_ap50(metrics: Measured) -> float | None:
    assert isinstance(metrics, Metrics)
    return metrics.mask_ap50


def _mean_iou(metrics: Measured) -> float | None:
    assert isinstance(metrics, SegmentationMetrics)
    return metrics.mean_iou if metrics.pixels else None


def _box_iou(metrics: Measured) -> float | None:
    assert isinstance(metrics, LocalisationMetrics)
    return metrics.mean_iou


def _boxes(size: tuple[int, int], recipe: Recipe, fill: tuple[int, int, int], mild: bool) -> v2.Compose:
    # mosaics and bars make objects smaller: together with them fewer images are expanded
    expand = (0.3 if mild else 0.0) if recipe.mosaic else 0.5
    return detection_transform(
        size, train=True, fill=fill, mild=mild, letterbox=recipe.letterbox, expand=expand
    )


def _one_box(size: tuple[int, int], recipe: Recipe, fill: tuple[int, int, int], mild: bool) -> v2.Compose:
    return localisation_transform(size, train=True, fill=fill)


def _windows(size: tuple[int, int], recipe: Recipe, fill: tuple[int, int, int], mild: bool) -> v2.Compose:
    window = recipe.window or size
    return segmentation_transform(window, train=True, fill=fill, scale=recipe.scale, upright=recipe.upright)


_BOXES = Training("AP", "AP50_11point", _boxes, evaluate, _ap11)
_MAPS = Training("mIoU", "mIoU", _windows, evaluate_semantic, _mean_iou, semantic=True)
_ONE_BOX = Training(
    "mean IoU", "mean_box_IoU", _one_box, evaluate_localisation, _box_iou, select=with_one_object
)

_MASKS = Training("mask AP50", "mask_AP50", _boxes, evaluate, _mask_ap50, instances=True)

TRAINING: dict[Task, Training] = {
    "detection": _BOXES,
    "localisation": _ONE_BOX,
    "semantic": _MAPS,
    "instance": _MASKS,
}
"""Task -> how it is trained."""
