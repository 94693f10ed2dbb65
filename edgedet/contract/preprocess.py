"""From a frame to a network input and back: the resize rule and the normalisation, the one reference.

Two rules bring a frame to the network's size. `stretch` scales both axes on their own (YOLO's and SSD's
papers); `letterbox` keeps the aspect ratio, centres the frame and fills the rest with the mean colour,
which normalises to about 0. Pixels are averaged over their area when both axes shrink and interpolated
linearly otherwise; pixel centres lie at half coordinates, as everywhere in OpenCV.

The average over an area is taken in steps (`halvings`): exact means of 2 x 2 pixels for as long as both
axes shrink by two or more, then what remains, linearly if it is less than another two. From 1280 x 720 to
320 x 320 that costs 0.6 ms of one core instead of 3.1; over frame sizes from 768 x 432 to 3840 x 2160 the
pixels differ by 0.3 to 1.9 of 255 grey levels on average from an average taken at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import Array, clip
from edgedet.contract.frames import Image, YuvImage, check_image
from edgedet.contract.spec import Input


@dataclass(frozen=True)
class FrameTransform:
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

    @property
    def inner(self) -> tuple[slice, slice]:
        """The rows and columns of the network input that the frame fills; the rest is letterbox."""
        w, h = round(self.width * self.scale_x), round(self.height * self.scale_y)
        return slice(self.top, self.top + h), slice(self.left, self.left + w)

    def map_to_frame(
        self, classes: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Classes (height, width) uint8 of the network's pixels -> (H, W) uint8 of the frame's.

        The letterbox is cut away; each pixel of the frame takes the class of the network's pixel whose
        centre is nearest to its own (centres at half coordinates, as in preprocessing; where two are
        equally near, either may be taken).

        Args:
            classes: at network size.
            out: (H, W) uint8, contiguous, filled and returned; allocated if None.

        Raises:
            ValueError: `out` has another shape or type.
        """
        if out is None:
            out = np.empty((self.height, self.width), np.uint8)
        if out.shape != (self.height, self.width) or out.dtype != np.uint8:
            raise ValueError(f"out: got {out.dtype} {out.shape}, expected uint8 {(self.height, self.width)}")
        # EXACT is the half-pixel rule; OpenCV's plain NEAREST is shifted by up to half a pixel
        size = (self.width, self.height)
        cv2.resize(classes[self.inner], size, dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
        return out


def place(width: int, height: int, spec: Input) -> FrameTransform:
    """Where a frame of width x height pixels comes to lie under the spec's resize rule."""
    if spec.resize == "stretch":
        return FrameTransform(width, height, spec.width / width, spec.height / height, 0, 0)
    scale = min(spec.width / width, spec.height / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    return FrameTransform(width, height, w / width, h / height, (spec.width - w) // 2, (spec.height - h) // 2)


def halvings(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """How often 2 x 2 pixels are averaged before a frame of `size` (width, height) is resized to `wanted`."""
    (w, h), n = size, 0
    while w % 2 == h % 2 == 0 and w >= 2 * wanted[0] and h >= 2 * wanted[1]:
        w, h, n = w // 2, h // 2, n + 1
    return n


class Preprocessor:
    """Frames to network inputs, with every buffer allocated once.

    One instance serves one thread. `__call__` writes into the caller's array, typically a row of the
    engine's input batch, and allocates nothing once a frame size has been seen.
    """

    def __init__(self, spec: Input) -> None:
        self.spec = spec
        fill = np.rint(255 * np.asarray(spec.mean)).clip(0, 255).astype(np.uint8)
        self._fill = fill if spec.colour == "BGR" else fill[::-1]
        self._canvas = np.empty((spec.height, spec.width, 3), np.uint8)
        self._planes = [np.empty(spec.size, np.uint8) for _ in range(3)]
        self._halves: list[Image] = []
        self._transform: FrameTransform | None = None
        # 256 values per channel of the network: (v / 255 - mean) / std, rounded once
        values = np.arange(256) / 255
        self._tables = [
            ((values - mean) / std).astype(np.float32) for mean, std in zip(spec.mean, spec.std, strict=True)
        ]

    def __call__(self, pixels: Image | YuvImage, out: Array) -> FrameTransform:
        """A picture -> `out`, one image of the network's input, filled; returns the transform.

        Args:
            pixels: (H, W, 3) uint8 BGR, or a decoder's planes.
            out: of the spec's input, without the batch axis: (3, height, width) or (height, width, 3).

        Raises:
            ImageError: `pixels` are of another type or shape. ValueError: `out` is.
        """
        if out.shape != self.spec.shape[1:] or out.dtype != self.spec.dtype:
            raise ValueError(
                f"out: got {out.dtype} {out.shape}, expected {self.spec.dtype} {self.spec.shape[1:]}"
            )
        image = pixels.to_bgr() if isinstance(pixels, YuvImage) else check_image(pixels)
        height, width = image.shape[:2]
        transform = self._transform
        if transform is None or (transform.width, transform.height) != (width, height):
            transform = self._transform = place(width, height, self.spec)
            self._canvas[:] = self._fill
            wanted = self._canvas[transform.inner].shape
            n = halvings((width, height), (wanted[1], wanted[0]))
            self._halves = [np.empty((height >> i, width >> i, 3), np.uint8) for i in range(1, n + 1)]
        _shrink(image, self._halves, self._canvas[transform.inner])
        self._write(out)
        return transform

    def _write(self, out: Array) -> None:
        """The canvas as the network takes it: colour order, layout, type."""
        spec = self.spec
        if spec.layout == "NHWC" and spec.dtype == "uint8":
            if spec.colour == "BGR":
                np.copyto(out, self._canvas)
            else:
                cv2.cvtColor(self._canvas, cv2.COLOR_BGR2RGB, dst=out)
            return
        cv2.split(self._canvas, self._planes)
        order = (2, 1, 0) if spec.colour == "RGB" else (0, 1, 2)
        for channel, source in enumerate(order):
            plane = self._planes[source]
            if spec.layout == "NHWC":
                out[..., channel] = cv2.LUT(plane, self._tables[channel])
            elif spec.dtype == "uint8":
                np.copyto(out[channel], plane)
            else:
                cv2.LUT(plane, self._tables[channel], dst=out[channel])


def _shrink(image: Image, halves: list[Image], out: Image) -> None:
    """Resize image into out by way of the buffers in `halves`; the rule is in the module's docstring."""
    for half in halves:
        cv2.resize(image, (half.shape[1], half.shape[0]), dst=half, interpolation=cv2.INTER_AREA)
        image = half
    (height, width), (h, w) = image.shape[:2], out.shape[:2]
    if (w, h) == (width, height):
        out[:] = image
        return
    little = bool(halves) and width <= 2 * w and height <= 2 * h
    shrinks = w < width and h < height
    method = cv2.INTER_AREA if shrinks and not little else cv2.INTER_LINEAR
    cv2.resize(image, (w, h), dst=out, interpolation=method)


def preprocess(pixels: Image | YuvImage, spec: Input) -> tuple[npt.NDArray[Any], FrameTransform]:
    """One picture -> a network input with a batch of 1, and its transform. Raises as `Preprocessor`."""
    out = np.empty((1, *spec.shape[1:]), spec.dtype)
    return out, Preprocessor(spec)(pixels, out[0])
