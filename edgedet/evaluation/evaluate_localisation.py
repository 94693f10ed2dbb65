"""Accuracy of anything that says where the one object of an image is, and what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import iou
from edgedet.contract.errors import DataError
from edgedet.contract.results import Detections
from edgedet.data import Dataset
from edgedet.data.one_object import with_one_object
from edgedet.evaluation.evaluate import (
    ModelUnderTest,
    Predict,
    coverage,
    match_classes,
    predictions,
    spread,
)
from edgedet.evaluation.metrics import ClassLocalisation, LocalisationMetrics


def evaluate_localisation(
    predict: Predict | ModelUnderTest,
    dataset: Dataset,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> LocalisationMetrics:
    """How well the best detection of each image with exactly one object lies on that object.

    Lecture, "Localisation of one object by regression". The mean IoU asks only where, as the regression
    does; that the class is right too is measured beside it, and both together as ImageNet's localisation
    task does (IoU of at least 0.5 and the right class; Russakovsky et al. 2015, 4.2). An image for which
    nothing is said has IoU 0.

    Args:
        predict: image (H, W, 3) uint8 BGR -> Detections in its pixels.
        dataset: images with boxes; those that have not exactly one object are left out, counted and noted.
        classes: what the labels of `predict` mean; by default its attribute `classes`, else the data
            set's. They are matched with the data set's by name (`match_classes`); images of an object that
            the model does not know are left out.
        limit: evaluate only this many of the images with one object, evenly spread.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the data set has no boxes, or no class in common with the model; the model gives none.
        EmptyDataset: no image has exactly one object, or none can be read.
    """
    if not dataset.labelled or dataset.semantic:
        raise DataError(
            f"{dataset.name} has no boxes to compare with.", hint="Evaluate on voc:, coco: or yolo: data."
        )
    names = tuple(classes if classes is not None else getattr(predict, "classes", dataset.classes))
    mapping, notes = match_classes(names, dataset)
    data = with_one_object(dataset)
    known = sorted(set(mapping[mapping >= 0].tolist()))
    indices = spread(len(data), limit)
    skipped: list[str] = []
    labels: list[int] = []
    overlaps: list[float] = []
    right: list[bool] = []
    for truth, result in predictions(predict, data, indices, data.truths.__getitem__, skipped, progress):
        if not isinstance(result, Detections):
            raise DataError(
                f"The model gives a {type(result).__name__}, not a box to compare with {dataset.name}.",
                hint="Evaluate a semantic model on masks: or voc-seg: data.",
            )
        label = int(truth.labels[0])
        if label not in known:
            continue
        labels.append(label)
        overlaps.append(float(iou(result.boxes[0], truth.boxes[0])) if len(result) else 0.0)
        right.append(bool(len(result)) and int(mapping[result.labels[0]]) == label)
    every, share, correct = np.asarray(labels, np.int64), np.asarray(overlaps), np.asarray(right, bool)
    mine = [every == k for k in known]
    return LocalisationMetrics(
        data=dataset.name,
        fingerprint=dataset.fingerprint(),
        images=len(every),
        skipped=len(skipped),
        mean_iou=_mean(share),
        class_accuracy=_mean(correct),
        localised=_mean(correct & (share >= 0.5)),
        classes=tuple(
            ClassLocalisation(
                name=data.classes[k],
                images=int(of.sum()),
                mean_iou=_mean(share[of]),
                class_accuracy=_mean(correct[of]),
                localised=_mean(correct[of] & (share[of] >= 0.5)),
            )
            for k, of in zip(known, mine, strict=True)
        ),
        notes=(*notes, *coverage(data, indices, skipped), *data.part(indices).notes),
        not_measured=""
        if len(every)
        else f"in none of {len(indices)} images the one object is of a class that the model knows",
    )


def _mean(values: npt.NDArray[np.generic]) -> float | None:
    return float(values.astype(np.float64).mean()) if len(values) else None
