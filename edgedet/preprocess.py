"""From a frame to a network input and back: the resize rule and the normalisation, the one reference.

Two rules bring a frame to the network's size. `stretch` scales both axes on their own (YOLO's and SSD's
papers); `letterbox` keeps the aspect ratio, centres the frame and fills the rest with the mean colour,
which normalises to about 0. Pixels are averaged over their area when both axes shrink and interpolated
linearly otherwise; pixel centres lie at half coordinates, as everywhere in OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.boxes import Array, clip
from edgedet.spec import Input


@dataclass(frozen=True)
class Placement:
    """Where a frame lies in the network input: x_net = x * scale_x + left, y_net = y * scale_y + top.

    `width` and `height` are the frame's own, in pixels.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_frame(self, boxes: Array) -> Array:
        """Boxes (..., 4) in network pixels -> boxes in frame pixels, cut to the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)
        return clip((boxes - offset) / scale, self.width, self.height)


def place(width: int, height: int, spec: Input) -> Placement:
    """Where a frame of width x height pixels comes to lie under the spec's resize rule."""
    if spec.resize == "stretch":
        return Placement(width, height, spec.width / width, spec.height / height, 0, 0)
    scale = min(spec.width / width, spec.height / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(width, height, w / width, h / height, (spec.width - w) // 2, (spec.height - h) // 2)


class Preprocessor:
    """Frames to network inputs, with every buffer allocated once.

    One instance serves one thread. `__call__` writes into the caller's array, typically a row of the
    engine's input batch, and allocates nothing once a frame size has been seen.
    """

    def __init__(self, spec: Input) -> None:
        self.spec = spec
        fill = np.rint(255 * np.asarray(spec.mean)).clip(0, 255).astype(np.uint8)
        self._canvas = np.empty((spec.height, spec.width, 3), np.uint8)
        self._fill = fill if spec.colour == "BGR" else fill[::-1]
        self._float = np.empty((spec.height, spec.width, 3), np.float32)
        self._placement: Placement | None = None
        # (v / 255 - mean) / std = v * a + b, in the order of the network's channels
        std = np.asarray(spec.std, np.float64)
        self._a = (1 / (255 * std)).astype(np.float32)
        self._b = (-np.asarray(spec.mean, np.float64) / std).astype(np.float32)

    def __call__(self, image: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> Placement:
        """Image (H, W, 3) uint8 BGR -> out (3, height, width) float32, filled; returns the placement."""
        height, width = image.shape[:2]
        placement = self._placement
        if placement is None or (placement.width, placement.height) != (width, height):
            placement = self._placement = place(width, height, self.spec)
            self._canvas[:] = self._fill
        w = min(self.spec.width, round(width * placement.scale_x))
        h = min(self.spec.height, round(height * placement.scale_y))
        inner = self._canvas[placement.top : placement.top + h, placement.left : placement.left + w]
        if (w, h) == (width, height):
            inner[:] = image
        else:
            shrinks = w < width and h < height
            cv2.resize(
                image, (w, h), dst=inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        order = (2, 1, 0) if self.spec.colour == "RGB" else (0, 1, 2)
        for channel, source in enumerate(order):
            np.multiply(self._canvas[..., source], self._a[channel], out=out[channel], casting="unsafe")
            out[channel] += self._b[channel]
        return placement


def preprocess(image: npt.NDArray[np.uint8], spec: Input) -> tuple[npt.NDArray[np.float32], Placement]:
    """One frame (H, W, 3) uint8 BGR -> (1, 3, height, width) float32 and its placement."""
    out = np.empty((1, 3, spec.height, spec.width), np.float32)
    return out, Preprocessor(spec)(image, out[0])
