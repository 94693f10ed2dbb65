"""What the training loop must know of a task: how samples are augmented, and what a validation measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from torchvision.transforms import v2

from edgedet.contract.errors import DataError
from edgedet.contract.spec import Task, Thresholds
from edgedet.data import Dataset
from edgedet.data.augment import detection_transform, segmentation_transform
from edgedet.data.augment_localisation import localisation_transform
from edgedet.data.one_object import with_one_object
from edgedet.evaluation import (
    EVAL_THRESHOLDS,
    LocalisationMetrics,
    Metrics,
    ProposalMetrics,
    SegmentationMetrics,
    evaluate,
    evaluate_localisation,
    evaluate_proposals,
    evaluate_semantic,
)
from edgedet.training.recipe import Recipe

Measured: TypeAlias = Metrics | SegmentationMetrics | LocalisationMetrics | ProposalMetrics
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
    mask for each box; select: the images of a data set that are of use; thresholds: what `predict` keeps.
    """

    score: str
    metric: str
    transform: Callable[[tuple[int, int], Recipe, tuple[int, int, int], bool], v2.Compose]
    evaluate: Callable[..., Measured]
    value: Callable[[Measured], float | None]
    semantic: bool = False
    instances: bool = False
    select: Callable[[Dataset], Dataset] = _all
    thresholds: Thresholds = EVAL_THRESHOLDS

    def of_use(self, data: Dataset, model: str) -> Dataset:
        """What of a data set a model of this task learns from, or is measured on; DataError: other data."""
        if data.semantic != self.semantic:
            has, needs = ("a class per pixel", "boxes")[:: 1 if data.semantic else -1]
            raise DataError(
                f"{data.name} has {has}; {model} is trained on {needs}.",
                hint="Give masks: or voc-seg: to a semantic model, voc:, coco: or yolo: to a detector.",
            )
        return self.select(data)


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


def _recall(metrics: Measured) -> float | None:
    assert isinstance(metrics, ProposalMetrics)
    return metrics.recall


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

EVERY_ROW = Thresholds(score=0.0, iou=1.0, pre_nms=2000, max_detections=2000)
"""Proposals have passed their own suppression."""

PROPOSALS = replace(
    _BOXES,
    score="recall",
    metric="proposal_recall50",
    evaluate=evaluate_proposals,
    value=_recall,
    thresholds=EVERY_ROW,
)
"""A network that proposes regions, by itself."""

TRAINING: dict[Task, Training] = {
    "detection": _BOXES,
    "localisation": _ONE_BOX,
    "semantic": _MAPS,
    "instance": _MASKS,
}
"""Task -> how it is trained."""
