"""What a model says about a frame: validated numpy values, in pixels of the original frame."""

from __future__ import annotations

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
    """Detections with a mask each: masks (n, H, W) bool in original pixels."""

    detections: Detections
    masks: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or len(self.masks) != len(self.detections):
            raise ValueError(f"masks: got shape {self.masks.shape}, expected ({len(self.detections)}, H, W)")
        _expect("masks", self.masks, self.masks.shape, np.bool_)


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


def _expect(name: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected {np.dtype(dtype).name} {shape}")
