"""What the training loop must know of a task: how samples are augmented, and what a validation measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchvision.transforms import v2

from edgedet.contract.spec import Task
from edgedet.data.augment import detection_transform, segmentation_transform
from edgedet.evaluation import Metrics, SegmentationMetrics, evaluate, evaluate_semantic
from edgedet.training.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """One task.

    score: the measure's name in messages; metric: its key in `ModelSpec.metrics`, before "@data";
    transform: (input size, recipe, fill, mild) -> the augmentation, `mild` in the last epochs;
    evaluate: (predict, dataset, limit=, progress=) -> metrics; value: metrics -> the score, in [0, 1],
    None if there was nothing to measure; semantic: trained on class maps, not on boxes; instances: with a
    mask for each box.
    """

    score: str
    metric: str
    transform: Callable[[tuple[int, int], Recipe, tuple[int, int, int], bool], v2.Compose]
    evaluate: Callable[..., Metrics | SegmentationMetrics]
    value: Callable[[Metrics | SegmentationMetrics], float | None]
    semantic: bool = False
    instances: bool = False


def _ap11(metrics: Metrics | SegmentationMetrics) -> float | None:
    assert isinstance(metrics, Metrics)
    return metrics.ap11 if any(c.objects for c in metrics.classes) else None


def _mask_ap50(metrics: Metrics | SegmentationMetrics) -> float | None:
    assert isinstance(metrics, Metrics)
    return metrics.mask_ap50


def _mean_iou(metrics: Metrics | SegmentationMetrics) -> float | None:
    assert isinstance(metrics, SegmentationMetrics)
    return metrics.mean_iou if metrics.pixels else None


def _boxes(size: tuple[int, int], recipe: Recipe, fill: tuple[int, int, int], mild: bool) -> v2.Compose:
    return detection_transform(size, train=True, fill=fill, mild=mild)


def _windows(size: tuple[int, int], recipe: Recipe, fill: tuple[int, int, int], mild: bool) -> v2.Compose:
    window = recipe.window or size
    return segmentation_transform(window, train=True, fill=fill, scale=recipe.scale, upright=recipe.upright)


_BOXES = Training("AP", "AP50_11point", _boxes, evaluate, _ap11)
_MAPS = Training("mIoU", "mIoU", _windows, evaluate_semantic, _mean_iou, semantic=True)

_MASKS = Training("mask AP50", "mask_AP50", _boxes, evaluate, _mask_ap50, instances=True)

TRAINING: dict[Task, Training] = {
    "detection": _BOXES,
    "localisation": _BOXES,
    "semantic": _MAPS,
    "instance": _MASKS,
}
"""Task -> how it is trained."""
