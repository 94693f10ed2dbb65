"""Accuracy of anything that turns an image into a class per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import DataError
from edgedet.contract.numbers import check_count
from edgedet.contract.results import SegmentationMap
from edgedet.contract.spec import VOID
from edgedet.data import Dataset
from edgedet.evaluation.evaluate import (
    ModelUnderTest,
    Predict,
    coverage,
    match_classes,
    predictions,
    spread,
)
from edgedet.evaluation.metrics import ClassPixels, SegmentationMetrics, Trimap
from edgedet.evaluation.segmentation import Confusion, trimap


def evaluate_semantic(
    predict: Predict | ModelUnderTest,
    dataset: Dataset,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    trimaps: Sequence[int] = (),
    progress: bool = True,
) -> SegmentationMetrics:
    """Dice, IoU and pixel accuracy of `predict` on `dataset`, at the images' own size, void left out.

    Args:
        predict: image (H, W, 3) uint8 BGR -> SegmentationMap of its size.
        dataset: images with class maps.
        classes: what the values of the maps mean; by default the attribute `classes` of `predict`, else
            the data set's. They are matched with the data set's by name (`match_classes`): pixels of a
            class that the model does not know do not count, and what it predicts as a class that the data
            does not have is wrong.
        limit: evaluate only this many images, evenly spread over the data set.
        trimaps: radii in pixels; also measure the mean IoU within that of the truth's boundaries.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the data set has no class maps, or no class in common with the model; the model gives
            something else. EmptyDataset: no image can be read, or no mask used. Such images are skipped,
            counted and noted.
        UsageError: a limit or a radius below 1.
        ValueError: a map of another size than its image, or of a class that is not named.
    """
    if not dataset.semantic:
        raise DataError(
            f"{dataset.name} has no class per pixel to compare with.",
            hint="Evaluate on masks: or voc-seg: data.",
        )
    names = tuple(classes if classes is not None else getattr(predict, "classes", dataset.classes))
    mapping, notes = match_classes(names, dataset)
    known = sorted(set(mapping[mapping >= 0].tolist()))
    of_truth = _table(np.arange(len(dataset.classes)), known)
    of_model = _table(mapping, known)
    whole = Confusion(len(known))
    for radius in trimaps:
        check_count("a radius of trimaps", radius)
    bands = {radius: Confusion(len(known)) for radius in sorted(set(trimaps))}
    indices = spread(len(dataset), limit)
    skipped: list[str] = []
    for truth, result in predictions(predict, dataset, indices, dataset.class_map, skipped, progress):
        if not isinstance(result, SegmentationMap):
            raise DataError(
                f"The model gives {type(result).__name__}, not the class maps of {dataset.name}.",
                hint="Evaluate a detector on voc:, coco: or yolo: data.",
            )
        if result.classes.size and int(result.classes.max()) >= len(names):
            raise ValueError(
                f"the model gives the class {result.classes.max()}, but names only {len(names)} classes"
            )
        wanted, found = of_truth[truth], of_model[result.classes]
        whole.add(wanted, found)
        for radius, band in bands.items():
            band.add(wanted, found, where=trimap(truth, radius))
    iou, dice = whole.iou(), whole.dice()
    return SegmentationMetrics(
        data=dataset.name,
        fingerprint=dataset.fingerprint(),
        images=len(indices) - len(skipped),
        skipped=len(skipped),
        pixels=whole.pixels,
        pixel_accuracy=whole.pixel_accuracy(),
        classes=tuple(
            ClassPixels(
                name=dataset.classes[k],
                truth=int(whole.truth[i]),
                predicted=int(whole.predicted[i]),
                iou=_known(iou[i]),
                dice=_known(dice[i]),
            )
            for i, k in enumerate(known)
        ),
        trimaps=tuple(Trimap(radius, _mean(band.iou()), band.pixels) for radius, band in bands.items()),
        notes=(*notes, *coverage(dataset, indices, skipped), *dataset.part(indices).notes),
        not_measured="" if whole.pixels else _reason(len(indices) - len(skipped), dataset, known),
    )


def _reason(images: int, dataset: Dataset, known: Sequence[int]) -> str:
    """Why no pixel counts."""
    names = ", ".join(dataset.classes[k] for k in known)
    return f"no pixel of {images} images has a class that model and data share ({names})"


def _table(classes: npt.NDArray[np.int64], known: Sequence[int]) -> npt.NDArray[np.uint8]:
    """(256,): value -> its class's position among `known`, `VOID` for all others."""
    table = np.full(VOID + 1, VOID, np.uint8)
    for value, k in enumerate(classes.tolist()):
        if k in known:
            table[value] = known.index(k)
    return table


def _mean(figures: npt.NDArray[np.float64]) -> float | None:
    """The mean of those that are known; None without any."""
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if len(known) else None


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else float(figure)
