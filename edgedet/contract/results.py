"""What a model says about a frame: validated numpy values, in pixels of the original frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one frame, best first.

    boxes (n, 4) float32 xyxy in original pixels, inside the frame; scores (n,) float32 in [0, 1];
    labels (n,) int64, indices into the spec's classes.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _expect("boxes", self.boxes, (n, 4), np.float32)
        _expect("scores", self.scores, (n,), np.float32)
        _expect("labels", self.labels, (n,), np.int64)

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Instances:
    """Detections with a mask each: masks (n, m, m) float32, probabilities in [0, 1] over each one's box.

    A mask fills its box: the centre of its cell (i, j) lies (i + 0.5) / m of the box's height from the top.
    It is pasted when it is drawn or measured, into the box's pixels only: n masks as large as the frame would
    be most of a frame's memory and time (He et al. 2017, section 3.1, "Inference").
    """

    detections: Detections
    masks: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.detections)
        if self.masks.ndim != 3 or self.masks.shape[1] != self.masks.shape[2] or not self.masks.shape[1]:
            raise ValueError(f"masks: got shape {self.masks.shape}, expected ({n}, m, m)")
        _expect("masks", self.masks, (n, *self.masks.shape[1:]), np.float32)

    def __len__(self) -> int:
        return len(self.detections)

    def window(self, i: int, size: tuple[int, int]) -> tuple[tuple[slice, slice], npt.NDArray[np.float32]]:
        """The pixels of a frame of `size` (height, width) whose centres lie in box `i`, and their
        probabilities: ((rows, columns), (h, w) float32), linearly interpolated, 0 outside the mask.
        """
        x0, y0, x1, y1 = self.detections.boxes[i].tolist()
        m = self.masks.shape[1]
        rows, down = _linear(y0, y1, size[0], m)
        columns, across = _linear(x0, x1, size[1], m)
        return (rows, columns), down @ self.masks[i] @ across.T

    def paste(self, i: int, size: tuple[int, int], threshold: float = 0.5) -> npt.NDArray[np.bool_]:
        """(H, W) bool: the pixels of a frame of `size` (height, width) that belong to object `i`."""
        whole = np.zeros(size, np.bool_)
        place, probability = self.window(i, size)
        whole[place] = probability > threshold
        return whole

    def pasted(self, size: tuple[int, int], threshold: float = 0.5) -> Iterator[npt.NDArray[np.bool_]]:
        """One mask (H, W) after the other, in the order of the detections."""
        return (self.paste(i, size, threshold) for i in range(len(self)))


def _linear(low: float, high: float, length: int, m: int) -> tuple[slice, npt.NDArray[np.float32]]:
    """The pixels of `length` whose centres lie in [low, high), and the weights (pixels, m) of m cells."""
    first = min(max(math.ceil(low - 0.5), 0), length)
    last = min(max(math.ceil(high - 0.5), first), length)
    centres = np.arange(first, last) + 0.5
    at = (centres - low) * (m / max(high - low, 1e-9)) - 0.5
    # beyond the outermost cells' centres it falls to 0, as if there were empty cells around the mask
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(m)), 0)
    return slice(first, last), weights.astype(np.float32)


@dataclass(frozen=True, eq=False)
class SegmentationMap:
    """A class per pixel: classes (H, W) uint8, indices into the spec's classes, original size."""

    classes: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.classes.ndim != 2:
            raise ValueError(f"classes: got shape {self.classes.shape}, expected (H, W)")
        _expect("classes", self.classes, self.classes.shape, np.uint8)

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(256,) int64: how many pixels each class has; counted once, so the map must not change after."""
        import cv2  # here, because this module is imported by all and this needed by few

        height, width = self.classes.shape
        rows = max(1, _EXACT // max(1, width))
        counts = np.zeros(256, np.int64)
        for top in range(0, height, rows):
            strip = self.classes[top : top + rows]
            counts += cv2.calcHist([strip], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        return counts


_EXACT = 1 << 24
"""OpenCV counts in float32, which is exact up to here."""

Result: TypeAlias = Detections | Instances | SegmentationMap


def boxes_of(result: Result) -> Detections | None:
    """The boxes of a result that has some."""
    if isinstance(result, Instances):
        return result.detections
    return result if isinstance(result, Detections) else None


def _expect(name: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected {np.dtype(dtype).name} {shape}")
