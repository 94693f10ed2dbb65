"""Accuracy of anything that turns an image into detections: a torch model, an ONNX file, an engine.

What evaluating takes for every task is here too: predictors, the walk over the images, classes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import DataError, EmptyDataset, ImageError, MaskError, MissingDependency
from edgedet.contract.numbers import check_count, check_number
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.proposals import Proposer, RegionInput, in_runs
from edgedet.contract.results import Detections, Instances, Result, boxes_of
from edgedet.contract.spec import ModelSpec, Task, Thresholds
from edgedet.contract.text import printable
from edgedet.data import Dataset, Truth
from edgedet.data.clean import plain_name
from edgedet.evaluation.ap import Curve, best_threshold, eleven_point, every_point, match
from edgedet.evaluation.coco_ap import CocoAP, coco_ap
from edgedet.evaluation.mask_ap import MaskAP
from edgedet.evaluation.metrics import ClassMetrics, Metrics

EVAL_THRESHOLDS = Thresholds(score=0.01, iou=0.45, pre_nms=2000, max_detections=100)
"""Accuracy is measured with nearly every box kept: the precision-recall curve needs its low end."""

Image: TypeAlias = npt.NDArray[np.uint8]

T = TypeVar("T")

Predict: TypeAlias = Callable[[Image], Result]
"""image (H, W, 3) uint8 BGR -> what is in it, in its pixels: Detections, Instances or SegmentationMap."""


class Engine(Protocol):
    """The part of edgedet.runtime's engines that evaluation uses."""

    @property
    def spec(self) -> ModelSpec:
        """What the graph takes and gives."""
        ...

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """{input name: array} -> {output name: array}."""
        ...


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model as a callable that knows its classes, which `evaluate` maps to the data set's.

    many: up to `batch` images at once -> one result each. task: what it is for, and is measured by.
    """

    many: Callable[[Sequence[Image]], Sequence[Result]]
    classes: tuple[str, ...]
    batch: int = 1
    task: Task = "detection"

    def __call__(self, image: Image) -> Result:
        """One image: see `Predict`."""
        return self.many([image])[0]


def engine_under_test(
    engine: Engine, thresholds: Thresholds = EVAL_THRESHOLDS, *, proposer: Proposer | None = None
) -> ModelUnderTest:
    """Preprocess -> `engine.infer` -> postprocess, with the batch the engine was built for (1 if any).

    proposer: of regions, where the graph takes them, instead of the spec's own (one with a cache).
    """
    spec = engine.spec.with_(thresholds=thresholds)
    prepare = Preprocessor(spec.input)
    opened: Mapping[str, Engine] = getattr(engine, "stages", {})
    postprocess = make_postprocessor(spec, {name: e.infer for name, e in opened.items()})
    batch = np.zeros((spec.input.batch or 1, *spec.input.shape[1:]), spec.input.dtype)
    inputs = {spec.input.name: batch}
    regions = RegionInput(spec, proposer) if spec.proposals else None
    count, rows = (spec.proposals.count, spec.proposals.a_run) if spec.proposals else (0, 1)
    boxes = np.zeros((len(batch), count, 4), np.float32)

    def many(images: Sequence[Image]) -> list[Result]:
        transforms = [prepare(image, row) for image, row in zip(images, batch, strict=False)]
        if regions is None:
            return postprocess(engine.infer(inputs), transforms)
        for image, transform, row in zip(images, transforms, boxes, strict=False):
            regions(image, transform, row)
        boxes[len(images) :] = 0
        name = regions.name
        outputs = in_runs(lambda run: engine.infer(inputs | {name: boxes[:, run]}), boxes, rows)
        return postprocess(outputs, transforms)

    return ModelUnderTest(many, spec.classes, len(batch), spec.task)


def evaluate(
    predict: Predict | ModelUnderTest,
    dataset: Dataset,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    iou: float = 0.5,
    coco: bool = True,
    progress: bool = True,
) -> Metrics:
    """VOC's and COCO's AP of `predict` on `dataset`.

    Args:
        predict: image (H, W, 3) uint8 BGR -> Detections in its pixels.
        dataset: images with boxes.
        classes: what the labels of `predict` mean; by default its attribute `classes`, else the data
            set's. They are matched with the data set's by name (`match_classes`).
        limit: evaluate only this many images, evenly spread over the data set.
        iou: the overlap of the VOC figures.
        coco: also compute COCO's AP.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the data set has no boxes, or no class in common with the model; the model gives none.
        EmptyDataset: no image can be read. Unreadable ones are skipped, counted and noted.
        UsageError: a limit below 1, or an overlap that is not between 0 and 1.
    """
    check_number("iou", iou, above=True, most=1)
    if not dataset.labelled or dataset.semantic:
        raise DataError(
            f"{dataset.name} has no boxes to compare with.", hint="Evaluate on voc:, coco: or yolo: data."
        )
    names = tuple(classes if classes is not None else getattr(predict, "classes", dataset.classes))
    mapping, notes = match_classes(names, dataset)
    indices = spread(len(dataset), limit)
    detections: list[Detections] = []
    truths: list[Truth] = []
    skipped: list[str] = []
    masks, measured = MaskAP(len(dataset.classes)), 0
    for truth, result in predictions(
        predict, dataset, indices, dataset.truths.__getitem__, skipped, progress
    ):
        boxes = boxes_of(result)
        if boxes is None:
            raise DataError(
                f"The model gives a {type(result).__name__}, not boxes to compare with {dataset.name}.",
                hint="Evaluate a semantic model on masks: or voc-seg: data.",
            )
        truths.append(truth)
        detections.append(_relabel(boxes, mapping)[0])
        if isinstance(result, Instances) and truth.masks is not None:
            measured += 1
            own, keep = _relabel(boxes, mapping)
            masks.add(Instances(own, result.masks[keep]), truth.masks.read(), truth.labels, truth.ignore)
    notes += coverage(dataset, indices, skipped)
    known = sorted(set(mapping[mapping >= 0].tolist()))
    objects = sum(len(t.boxes) for t in truths)
    truths = [_only(t, known) for t in truths]
    found: CocoAP | None = None
    if coco:
        try:
            found = coco_ap(detections, truths, len(dataset.classes))
        except MissingDependency as e:
            notes.append(f"no COCO AP: {e}")
    shapes = masks.result(known) if measured else None
    if shapes is not None and measured < len(truths):
        notes.append(f"mask AP: {len(truths) - measured} images have no masks")
    curves = {k: match(detections, truths, k, iou=iou) for k in known}
    best_score, best_f1 = best_threshold(list(curves.values()))
    return Metrics(
        data=dataset.name,
        fingerprint=dataset.fingerprint(),
        images=len(truths),
        skipped=len(skipped),
        iou=iou,
        classes=tuple(
            _class_metrics(dataset.classes[k], curves[k], found.per_class[k] if found else None)
            for k in known
        ),
        coco_ap=found.ap if found else None,
        coco_ap50=found.ap50 if found else None,
        coco_ap75=found.ap75 if found else None,
        mask_ap=shapes.ap if shapes else None,
        mask_ap50=shapes.ap50 if shapes else None,
        mask_ap75=shapes.ap75 if shapes else None,
        best_score=best_score,
        best_f1=best_f1,
        notes=(*notes, *dataset.part(indices).notes),
        not_measured="" if any(c.objects for c in curves.values()) else _reason(truths, objects),
    )


def _reason(truths: Sequence[Truth], objects: int) -> str:
    """Why no object counts; truths: of the classes that are measured, objects: those of all classes."""
    left = sum(len(t.boxes) for t in truths)
    where = f"in {len(truths)} images"
    if not objects:
        return f"there is no object {where}"
    if not left:
        return f"none of {objects} objects {where} is of a class that the model knows"
    return f"all {left} objects {where} are marked as ignored (difficult, or crowds)"


def predictions(
    predict: Predict | ModelUnderTest,
    dataset: Dataset,
    indices: Sequence[int],
    truth: Callable[[int], T],
    skipped: list[str],
    progress: bool,
) -> Iterator[tuple[T, Result]]:
    """The truth and the prediction of each of these images that can be read.

    Args:
        predict: see `evaluate`; it gets as many images at once as it takes.
        dataset: the images. indices: which of them.
        truth: what is wanted of the truth of image `i`.
        skipped: where the reason goes for each image that cannot be read or has no usable truth; the data
            set notes it in its problems too.
        progress: show a progress bar on stderr.

    Raises:
        EmptyDataset: none can be read.
    """
    many = (
        predict.many if isinstance(predict, ModelUnderTest) else lambda images: [predict(i) for i in images]
    )
    batch = predict.batch if isinstance(predict, ModelUnderTest) else 1
    for chunk in _track(indices, batch, dataset.name, progress):
        images: list[Image] = []
        truths: list[T] = []
        for i in chunk:
            try:
                image, known = dataset.image(i), truth(i)
            except (ImageError, MaskError) as e:
                skipped.append(e.message)
                continue
            images.append(image)
            truths.append(known)
        if images:
            yield from zip(truths, many(images), strict=True)
    if len(skipped) == len(indices):
        raise EmptyDataset(f"No image of {dataset.name} can be read; the first: {skipped[0]}")


def coverage(dataset: Dataset, indices: Sequence[int], skipped: Sequence[str]) -> list[str]:
    """What a reader must know of the images that were left out."""
    notes = []
    if len(indices) < len(dataset):
        notes.append(f"measured on {len(indices)} of {len(dataset)} images")
    if skipped:
        notes.append(f"{len(skipped)} images could not be read; the first: {skipped[0]}")
    return notes


def match_classes(names: Sequence[str], dataset: Dataset) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The data set's label for each of the model's classes (-1: it has none), and what is to be said of it.

    Names that are equal belong together. Of the others, those that differ only in case, spaces, "_" and "-",
    where that is one name on either side; and a name of nothing but those is itself.

    Raises:
        DataError: they have no class in common; or several names on one side differ only like that, so
            that it cannot be said which is meant; or the model has two classes of one name of the data's.
    """
    exact = {name: k for k, name in enumerate(dataset.classes)}
    mapping = np.asarray([exact.get(name, -1) for name in names], np.int64)
    twice = [name for name, k in zip(names, mapping, strict=True) if k >= 0 and names.count(name) > 1]
    if twice:
        raise DataError(f"The model has {names.count(twice[0])} classes called {twice[0]!r}.")
    taken = np.isin(np.arange(len(dataset.classes)), mapping)
    mine, theirs = _by_plain_name(names, mapping >= 0), _by_plain_name(dataset.classes, taken)
    notes = []
    for plain in mine.keys() & theirs.keys():
        here, there = mine[plain], theirs[plain]
        if len(here) > 1 or len(there) > 1:
            model = dict.fromkeys(repr(names[k]) for k in here)
            data = [repr(dataset.classes[k]) for k in there]
            raise DataError(
                f"The model's {' and '.join(model)} and the data's {' and '.join(data)} differ only in case, "
                "spaces, - or _: which belong together cannot be said.",
                hint="Give them the same names in model and data.",
            )
        mapping[here[0]] = there[0]
    extra = [name for name, k in zip(names, mapping, strict=True) if k < 0]
    lacking = [name for k, name in enumerate(dataset.classes) if k not in mapping]
    if len(extra) == len(names):
        raise DataError(
            f"The model's classes ({_some(names)}) and those of {dataset.name} ({_some(dataset.classes)}) "
            "have none in common.",
            hint="Evaluate on data of the classes that the model was trained for.",
        )
    if lacking:
        notes.append(f"{len(lacking)} classes of the data are unknown to the model: {_some(lacking)}")
    if extra:
        notes.append(f"{len(extra)} classes of the model are not in the data: {_some(extra)}")
    return mapping, notes


def _by_plain_name(names: Sequence[str], taken: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """The names that are not taken, by what is left without case, spaces, "_" and "-", if anything is."""
    found: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        plain = plain_name(name)
        if plain and not taken[k]:
            found.setdefault(plain, []).append(k)
    return found


def spread(length: int, limit: int | None) -> list[int]:
    """`limit` indices (all if None) evenly over range(length). UsageError unless it is 1 or more."""
    check_count("limit", limit)
    if limit is None or limit >= length:
        return list(range(length))
    return [i * length // limit for i in range(limit)]


def _class_metrics(name: str, curve: Curve, coco: float | None) -> ClassMetrics:
    return ClassMetrics(
        name=name,
        objects=curve.objects,
        ignored=curve.ignored,
        detections=len(curve.correct),
        ap11=eleven_point(curve),
        ap_every=every_point(curve),
        coco_ap=coco,
    )


def _relabel(found: Detections, mapping: npt.NDArray[np.int64]) -> tuple[Detections, npt.NDArray[np.bool_]]:
    """The detections in the data set's labels, without the classes it does not have; which were kept."""
    labels = mapping[found.labels]
    keep = labels >= 0
    return Detections(found.boxes[keep], found.scores[keep], labels[keep]), keep


def _only(truth: Truth, labels: Sequence[int]) -> Truth:
    """The truth without the classes the model cannot know."""
    keep = np.isin(truth.labels, labels)
    return Truth(truth.path, truth.boxes[keep], truth.labels[keep], truth.ignore[keep], truth.size)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}, ... ({len(names)})"


def _track(indices: Sequence[int], batch: int, what: str, progress: bool) -> Iterator[Sequence[int]]:
    """The indices in chunks of `batch`, under a progress bar on stderr if `progress`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    what = printable(what)
    columns = (
        TextColumn("evaluate on {task.fields[data]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not progress) as bar:
        task = bar.add_task("", total=len(indices), data=what)
        for start in range(0, len(indices), batch):
            chunk = indices[start : start + batch]
            yield chunk
            bar.advance(task, len(chunk))
