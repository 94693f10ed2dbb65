"""What the training loop must know of a task: how samples are augmented, and what a validation measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchvision.transforms import v2

from edgedet.data.augment import detection_transform, segmentation_transform
from edgedet.evaluation import Metrics, SegmentationMetrics, evaluate, evaluate_semantic
from edgedet.spec import Task


@dataclass(frozen=True)
class Training:
    """One task.

    score: the measure's name in messages; metric: its key in `ModelSpec.metrics`, before "@data";
    transform: (size, train=, fill=) -> the augmentation; evaluate: (predict, dataset, limit=, progress=) ->
    metrics; value: metrics -> the score, in [0, 1]; semantic: trained on class maps, not on boxes.
    """

    score: str
    metric: str
    transform: Callable[..., v2.Compose]
    evaluate: Callable[..., Metrics | SegmentationMetrics]
    value: Callable[[Metrics | SegmentationMetrics], float]
    semantic: bool = False


def _ap11(metrics: Metrics | SegmentationMetrics) -> float:
    assert isinstance(metrics, Metrics)
    return metrics.ap11


def _mean_iou(metrics: Metrics | SegmentationMetrics) -> float:
    assert isinstance(metrics, SegmentationMetrics)
    return metrics.mean_iou


_BOXES = Training("AP", "AP50_11point", detection_transform, evaluate, _ap11)
_MAPS = Training("mIoU", "mIoU", segmentation_transform, evaluate_semantic, _mean_iou, semantic=True)

TRAINING: dict[Task, Training] = {"detection": _BOXES, "localisation": _BOXES, "semantic": _MAPS}
"""Task -> how it is trained."""
