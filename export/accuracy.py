"""How good an exported artifact is: AP where there is truth, agreement with FP32 where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.boxes import area
from edgedet.data import KINDS, Dataset, Truth, open_dataset
from edgedet.errors import ImageError
from edgedet.evaluation import engine_predictor, evaluate
from edgedet.evaluation.ap import every_point, match
from edgedet.runtime import Engine, open_source

Image: TypeAlias = npt.NDArray[np.uint8]
Measure: TypeAlias = Callable[[Engine], float]
"""An engine -> percent."""

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


def open_data(text: str, split: str) -> Dataset | Frames:
    """What `--eval-data` names: a data set (KIND:PATH), or a video file, folder or glob of images.

    A data set without truth (`folder:`) becomes frames. Errors as `open_dataset` and `open_source`.
    """
    kind, colon, _ = text.partition(":")
    if colon and kind in KINDS:
        dataset = open_dataset(text, split)
        if dataset.labelled:
            return dataset
        return Frames(dataset.name, _spread(len(dataset), MAX_FRAMES), dataset.image)
    source = open_source(text)
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


def average_precision(dataset: Dataset, *, progress: bool) -> Measure:
    """VOC's 11-point AP at IoU 0.5 over the whole data set, in percent."""

    def measure(engine: Engine) -> float:
        return 100 * evaluate(engine_predictor(engine), dataset, coco=False, progress=progress).ap11

    return measure


def agreement(reference: Engine, frames: Frames) -> Measure | None:
    """Agreement with a reference engine on frames, in percent; None if the reference finds nothing there.

    The reference's detections above its own score threshold count as the truth. Agreement is the mean over
    its classes of the every-point AP at IoU 0.5 against that truth, weighted by how often each class
    occurs; the reference itself has 100.
    """
    images = frames.images()
    predict = engine_predictor(reference, reference.spec.thresholds)
    truths = []
    for index, image in enumerate(images):
        found = predict(image)
        whole = area(found.boxes) > 0  # what the frame's edge has cut away overlaps nothing, itself included
        boxes, marks = found.boxes[whole], found.labels[whole]
        truths.append(Truth(Path(str(index)), boxes, marks, np.zeros(len(boxes), bool)))
    labels = np.concatenate([t.labels for t in truths]) if truths else np.zeros(0, np.int64)
    if not len(labels):
        return None

    def measure(engine: Engine) -> float:
        other = engine_predictor(engine)
        detections = [other(image) for image in images]
        total = 0.0
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            total += float(count) * (every_point(match(detections, truths, int(label))) or 0.0)
        return 100 * total / len(labels)

    return measure


def _spread(length: int, limit: int) -> list[int]:
    return [i * length // limit for i in range(limit)] if length > limit else list(range(length))
