"""Dice, IoU and pixel accuracy from counts of pixels; IoU near the boundaries (trimap).

Sources: the lecture, "Metrics": Dice = 2 TP / (2 TP + FP + FN), IoU = TP / (TP + FP + FN). The counts are
added up over all images before a figure is made of them (Everingham et al. 2010 for VOC; Long et al. 2015,
5). Trimaps: Kraehenbuehl and Koltun 2011, 5; Chen et al. 2015 (DeepLab), 5.3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgedet.contract.spec import VOID

Map = npt.NDArray[np.uint8]


class Confusion:
    """Pixels counted by true and predicted class, over as many images as are added.

    matrix (K, K) int64: row = truth, column = prediction; missed (K,) int64: pixels of each class for which
    the prediction says `VOID` (none of these classes), a miss of their class and nobody's false positive.
    Pixels whose truth is void are counted nowhere.
    """

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes), np.int64)
        self.missed = np.zeros(classes, np.int64)

    def add(self, truth: Map, predicted: Map, *, where: npt.NDArray[np.bool_] | None = None) -> None:
        """Count one image: truth, predicted (H, W) uint8, classes or `VOID`; only `where` (H, W) if given.

        Raises:
            ValueError: other shapes than the truth's, or a value that is neither a class nor `VOID`.
        """
        k = len(self.matrix)
        for name, array in (("prediction", predicted), ("mask of where", where)):
            if array is not None and array.shape != truth.shape:
                raise ValueError(f"the {name} is {array.shape}, the truth {truth.shape}: resize it first")
        for name, array in (("truth", truth), ("prediction", predicted)):
            beyond = (array >= k) & (array != VOID)
            if beyond.any():
                raise ValueError(f"the {name} holds {int(array[beyond][0])}, expected 0 to {k - 1} or {VOID}")
        counted = truth != VOID if where is None else (truth != VOID) & where
        rows = truth[counted].astype(np.intp)
        columns = np.minimum(predicted[counted], k).astype(np.intp)  # void: a column of its own
        counts = np.bincount(rows * (k + 1) + columns, minlength=k * (k + 1)).reshape(k, k + 1)
        self.matrix += counts[:, :k]
        self.missed += counts[:, k]

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """(K,): pixels of each class in the truth."""
        return np.asarray(self.matrix.sum(axis=1) + self.missed)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(K,): pixels of each class in the prediction, where the truth is not void."""
        return np.asarray(self.matrix.sum(axis=0))

    @property
    def pixels(self) -> int:
        """How many pixels count."""
        return int(self.truth.sum())

    def iou(self) -> npt.NDArray[np.float64]:
        """(K,) in [0, 1]: TP / (TP + FP + FN); NaN for a class that is neither in truth nor prediction."""
        hits = self.matrix.diagonal()
        return _ratio(hits, self.truth + self.predicted - hits)

    def dice(self) -> npt.NDArray[np.float64]:
        """(K,) in [0, 1]: 2 TP / (2 TP + FP + FN); NaN as for `iou`."""
        return _ratio(2 * self.matrix.diagonal(), self.truth + self.predicted)

    def pixel_accuracy(self) -> float | None:
        """The share of pixels whose class is right; None without pixels."""
        return int(self.matrix.trace()) / self.pixels if self.pixels else None


def trimap(truth: Map, radius: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: the pixels that have a pixel of another label within `radius` rows and columns.

    These are the `radius` pixels on either side of each boundary; void counts as a label here, because in
    VOC it is what lies between two objects.
    """
    if radius < 1:
        raise ValueError(f"the radius is {radius}, expected at least 1")
    low, high = truth, truth
    for axis in (0, 1):
        low, high = _slide(np.minimum, low, radius, axis), _slide(np.maximum, high, radius, axis)
    return np.asarray(low != high)


def _slide(pick: np.ufunc, values: Map, radius: int, axis: int) -> Map:
    """`pick` over the window of `radius` to both sides along an axis; the image ends at its edges."""
    margin = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
    padded = np.pad(values, margin, mode="edge")  # repeats what lies in the window anyway
    length = values.shape[axis]
    out = values
    for start in range(2 * radius + 1):
        out = pick(out, padded[start : start + length] if axis == 0 else padded[:, start : start + length])
    return out


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole)
