"""How good an exported artifact is: AP or mIoU where there is truth, agreement with FP32 where there is none.

A task is judged by its entry of ACCURACY: another task is another entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import area
from edgedet.contract.errors import DataError, ImageError, UsageError
from edgedet.contract.proposals import Proposer
from edgedet.contract.results import Detections, Instances, SegmentationMap, boxes_of
from edgedet.contract.spec import Task, Thresholds
from edgedet.data import KINDS, Dataset, Truth, open_dataset
from edgedet.evaluation import (
    EVAL_THRESHOLDS,
    ModelUnderTest,
    engine_under_test,
    evaluate,
    evaluate_localisation,
    evaluate_semantic,
)
from edgedet.evaluation.ap import every_point, match
from edgedet.evaluation.mask_ap import MaskAP
from edgedet.evaluation.segmentation import Confusion
from edgedet.runtime import Engine, open_source

Image: TypeAlias = npt.NDArray[np.uint8]
R = TypeVar("R", Detections, Instances, SegmentationMap)
Measure: TypeAlias = Callable[[Engine], float | None]
"""An engine -> percent; None where the data has nothing to measure it by."""

MAX_FRAMES = 100


@dataclass(frozen=True)
class Frames:
    """Real images without truth, read one at a time. `name` says what they are, in reports."""

    name: str
    indices: Sequence[int]
    read: Callable[[int], Image] = field(repr=False)

    def images(self) -> list[Image]:
        """All of them that can be read."""
        found = []
        for i in self.indices:
            try:
                found.append(self.read(i))
            except ImageError:
                continue
        return found


def open_data(text: str, split: str, task: Task = "detection") -> Dataset | Frames:
    """What `--eval-data` names: a data set (KIND:PATH), or a video file, folder or glob of images.

    A data set without truth (`folder:`) becomes frames.

    Raises:
        DataError: its truth is not what a model for `task` gives. UsageError: a live source.
            Others as `open_dataset`, `open_source`.
    """
    kind, colon, _ = text.partition(":")
    if colon and kind in KINDS:
        dataset = open_dataset(text, split)
        if dataset.labelled:
            if dataset.semantic != (task == "semantic"):
                has = "a class per pixel" if dataset.semantic else "boxes"
                raise DataError(
                    f"{dataset.name} has {has}, which the results of a model for {task} are not.",
                    hint="Give masks: or voc-seg: for a semantic model, voc:, coco: or yolo: for a detector;"
                    " folder:PATH or a video to measure agreement with FP32.",
                )
            return dataset
        return Frames(dataset.name, _spread(len(dataset), MAX_FRAMES), dataset.image)
    source = open_source(text)
    if source.live:
        source.close()
        raise UsageError(
            f"{source.name} is live: it has no end, and no second run sees the same frames.",
            hint="Give --eval-data a data set, a video file or a folder of images.",
        )
    images: list[Image] = []
    step, index = 1, 0
    try:
        # how long a stream is may not be known: keep every step-th frame, thin out as it goes on
        while (frame := source.read(None)) is not None:
            if index % step == 0:
                images.append(np.array(frame))
            index += 1
            if len(images) > 2 * MAX_FRAMES:
                images, step = images[::2], step * 2
    finally:
        source.close()
    chosen = _spread(len(images), MAX_FRAMES)
    return Frames(Path(text).name, chosen, lambda i: images[i])


def fewer(dataset: Dataset, limit: int | None) -> Dataset:
    """At most `limit` images of a data set, evenly spread, with a name that says so."""
    chosen = _spread(len(dataset), limit or len(dataset))
    if len(chosen) == len(dataset):
        return dataset
    name = f"{dataset.name}, {len(chosen)} of {len(dataset)} images"
    return replace(dataset, name=name, truths=[dataset.truths[i] for i in chosen])


def average_precision(dataset: Dataset, *, progress: bool, proposer: Proposer | None = None) -> Measure:
    """VOC's 11-point AP at IoU 0.5 over the whole data set, in percent."""

    def measure(engine: Engine) -> float | None:
        found = evaluate(engine_under_test(engine, proposer=proposer), dataset, coco=False, progress=progress)
        return _percent(found.ap11 if any(c.objects for c in found.classes) else None)

    return measure


def mask_precision(dataset: Dataset, *, progress: bool, proposer: Proposer | None = None) -> Measure:
    """COCO's AP over masks at IoU 0.5, in percent; None where the data has no masks."""

    def measure(engine: Engine) -> float | None:
        predict = engine_under_test(engine, proposer=proposer)
        return _percent(evaluate(predict, dataset, coco=False, progress=progress).mask_ap50)

    return measure


def agreement(reference: Engine, frames: Frames, proposer: Proposer | None = None) -> Measure | None:
    """Agreement with a reference engine on frames, in percent; None if the reference finds nothing there.

    The reference's detections above its own score threshold count as the truth. Agreement is the mean over
    its classes of the every-point AP at IoU 0.5 against that truth, weighted by how often each class
    occurs; the reference itself has 100.
    """
    images = frames.images()
    predict = engine_under_test(reference, reference.spec.thresholds, proposer=proposer)
    truths = []
    for index, found in enumerate(map(_visible, _results(predict, images, Detections))):
        truths.append(Truth(Path(str(index)), found.boxes, found.labels, np.zeros(len(found), bool)))
    labels = np.concatenate([t.labels for t in truths]) if truths else np.zeros(0, np.int64)
    if not len(labels):
        return None
    thresholds = _thresholds(reference)

    def measure(engine: Engine) -> float:
        under_test = engine_under_test(engine, thresholds, proposer=proposer)
        detections = [_visible(d) for d in _results(under_test, images, Detections)]
        total = 0.0
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            total += float(count) * (every_point(match(detections, truths, int(label))) or 0.0)
        return 100 * total / len(labels)

    return measure


def _thresholds(reference: Engine) -> Thresholds:
    """Those that agreement is measured with.

    Nearly every box, but suppressed, and at most as many an image, as the reference shows them: what else
    there is in one image then stands behind all that the reference shows in any.
    """
    own = reference.spec.thresholds
    return replace(EVAL_THRESHOLDS, iou=own.iou, max_detections=own.max_detections)


def mean_iou(dataset: Dataset, *, progress: bool, proposer: Proposer | None = None) -> Measure:
    """Mean IoU over the whole data set, void left out, in percent."""

    def measure(engine: Engine) -> float | None:
        predict = engine_under_test(engine, proposer=proposer)
        return _percent(evaluate_semantic(predict, dataset, progress=progress).mean_iou)

    return measure


def mean_box_iou(dataset: Dataset, *, progress: bool, proposer: Proposer | None = None) -> Measure:
    """Mean IoU of the one box said on the images with one object, in percent."""

    def measure(engine: Engine) -> float | None:
        predict = engine_under_test(engine, proposer=proposer)
        return _percent(evaluate_localisation(predict, dataset, progress=progress).mean_iou)

    return measure


def map_agreement(reference: Engine, frames: Frames, proposer: Proposer | None = None) -> Measure | None:
    """Agreement with a reference engine's class maps, in percent; None if no frame can be read.

    The mean IoU between the two engines' maps, counted over all frames, of the classes that either has;
    the reference itself has 100.
    """
    images = frames.images()
    if not images:
        return None
    expected = list(_results(engine_under_test(reference, proposer=proposer), images, SegmentationMap))

    def measure(engine: Engine) -> float:
        counts = Confusion(len(engine.spec.classes))
        found = _results(engine_under_test(engine, proposer=proposer), images, SegmentationMap)
        for a, b in zip(expected, found, strict=True):
            counts.add(a.classes, b.classes)
        return 100 * float(np.nanmean(counts.iou()))

    return measure


def mask_agreement(reference: Engine, frames: Frames, proposer: Proposer | None = None) -> Measure | None:
    """Agreement with a reference engine's masks, in percent; None if the reference finds nothing there.

    COCO's AP over masks at IoU 0.5, where the reference's masks above its own score threshold are the truth;
    the reference itself has 100.
    """
    images = frames.images()
    predict = engine_under_test(reference, reference.spec.thresholds, proposer=proposer)
    expected = list(_results(predict, images, Instances))
    if not any(map(len, expected)):
        return None
    thresholds = _thresholds(reference)

    def measure(engine: Engine) -> float | None:
        found = MaskAP(len(engine.spec.classes))
        results = _results(engine_under_test(engine, thresholds, proposer=proposer), images, Instances)
        for image, want, got in zip(images, expected, results, strict=True):
            size = (image.shape[0], image.shape[1])
            masks = np.array([*want.pasted(size)], bool).reshape(-1, *size)
            empty = np.asarray(~masks.any(axis=(1, 2)))  # overlaps nothing, itself included
            found.add(got, masks, want.detections.labels, empty)
        return _percent(found.result().ap50)

    return measure


@dataclass(frozen=True)
class Accuracy:
    """How one task's results are judged.

    short: the measure's name in tables; full: what it is; metric: its key in `ModelSpec.metrics`, before
    "@data"; labelled: (data set, progress=, proposer=) -> the measure against its truth; results: what two
    engines agree on where there is none; agreement: the measure of that. A proposer makes the regions that a
    graph takes, instead of the spec's own.
    """

    short: str
    full: str
    metric: str
    labelled: Callable[..., Measure]
    results: str
    agreement: Callable[[Engine, Frames, Proposer | None], Measure | None]


_BOXES = Accuracy(
    short="AP",
    full="VOC 11-point AP at IoU 0.5",
    metric="AP50_11point",
    labelled=average_precision,
    results="detections",
    agreement=agreement,
)
_MAPS = Accuracy(
    short="mIoU",
    full="mean IoU, void left out",
    metric="mIoU",
    labelled=mean_iou,
    results="class maps",
    agreement=map_agreement,
)
_ONE_BOX = replace(
    _BOXES,
    short="mean IoU",
    full="mean IoU with the one object of an image",
    metric="mean_box_IoU",
    labelled=mean_box_iou,
)

_MASKS = Accuracy(
    short="mask AP50",
    full="COCO AP over masks at IoU 0.5",
    metric="mask_AP50",
    labelled=mask_precision,
    results="masks",
    agreement=mask_agreement,
)

ACCURACY: dict[Task, Accuracy] = {
    "detection": _BOXES,
    "localisation": _ONE_BOX,
    "semantic": _MAPS,
    "instance": _MASKS,
}
"""Task -> how its results are judged."""


def _visible(found: Detections) -> Detections:
    """Without the boxes that the frame's edge has cut away: they overlap nothing, themselves included."""
    there = area(found.boxes) > 0
    return Detections(found.boxes[there], found.scores[there], found.labels[there])


def _results(predict: ModelUnderTest, images: Sequence[Image], kind: type[R]) -> Iterator[R]:
    for image in images:
        result = predict(image)
        if kind is Detections:
            result = boxes_of(result) or result
        assert isinstance(result, kind), f"got {type(result).__name__}, expected {kind.__name__}"
        yield result


def _percent(share: float | None) -> float | None:
    """A share in percent; None where there is none (a mean over no class is not a number)."""
    return None if share is None or np.isnan(share) else 100 * share


def _spread(length: int, limit: int) -> list[int]:
    return [i * length // limit for i in range(limit)] if length > limit else list(range(length))
