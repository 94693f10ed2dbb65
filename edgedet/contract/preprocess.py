"""From a frame to a network input and back: the resize rule and the normalisation, the one reference.

Two rules bring a frame to the network's size. `stretch` scales both axes on their own (YOLO's and SSD's
papers); `letterbox` keeps the aspect ratio, centres the frame and fills the rest with the mean colour,
which normalises to about 0. Pixels are averaged over their area when both axes shrink and interpolated
linearly otherwise; pixel centres lie at half coordinates, as everywhere in OpenCV.

Where both axes shrink by two or more, the average over an area is taken in steps (`halvings`): exact means
of 2 x 2 pixels for as long as they do, means of two along an axis that still shrinks by more, then what
remains, linearly. To 320 x 320 pixels that costs 0.4 ms of one core instead of 3.1 from 1280 x 720; from
1920 x 1080 the means along one axis save 1.3 ms of 2.4. From frames of 1280 x 720 to 3840 x 2160 the pixels
differ by 0.1 to 1.1 of 255 grey levels on average from an average taken at once. Where only one axis shrinks
that much, steps were measured to cost 0.2 to 0.5 points of AP on VOC: the average is taken at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import Array
from edgedet.contract.colour import coefficients
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

    def to_frame(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (..., 4) in network pixels -> boxes in frame pixels, cut to the frame."""
        offset, scale, most = self._constants
        found: npt.NDArray[np.float32] = (boxes - offset) / scale
        np.maximum(found, 0, out=found)
        np.minimum(found, most, out=found)
        return found

    def to_network(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (..., 4) in frame pixels -> boxes in network pixels, as float32."""
        offset, scale, _ = self._constants
        return np.asarray(boxes * scale + offset, np.float32)

    @cached_property
    def _constants(self) -> tuple[npt.NDArray[np.float32], ...]:
        """Offset, scale and upper limit of a box's four numbers."""
        rows = ((self.left, self.top), (self.scale_x, self.scale_y), (self.width, self.height))
        return tuple(np.array([x, y, x, y], np.float32) for x, y in rows)

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


def halvings(size: tuple[int, int], wanted: tuple[int, int]) -> list[tuple[int, int]]:
    """The means that are taken before a frame of `size` (width, height) is resized to `wanted`, in order:
    over how many columns and rows each, (2, 2), (2, 1) or (1, 2).

    An axis that shrinks by just two needs none of its own: interpolating linearly is the mean of two then.
    """
    (w, h), steps = size, []
    while w % 2 == h % 2 == 0 and w >= 2 * wanted[0] and h >= 2 * wanted[1]:
        w, h = w // 2, h // 2
        steps.append((2, 2))
    while steps and w % 2 == 0 and w > 2 * wanted[0]:
        w //= 2
        steps.append((2, 1))
    while steps and h % 2 == 0 and h > 2 * wanted[1]:
        h //= 2
        steps.append((1, 2))
    return steps


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
        self._seen: tuple[bool, tuple[int, int]] | None = None
        self._transform: FrameTransform
        self._inner: tuple[slice, slice]
        self._bgr: _Resizer
        self._yuv: _YuvResizer
        # what the canvas holds is what such a network takes
        self._direct = (spec.dtype, spec.layout, spec.colour) == ("uint8", "NHWC", "BGR")
        # 256 values per channel of the network: (v / 255 - mean) / std, rounded once
        values = np.arange(256) / 255
        self._tables = [
            ((values - mean) / std).astype(np.float32) for mean, std in zip(spec.mean, spec.std, strict=True)
        ]

    def __call__(self, pixels: Image | YuvImage, out: Array) -> FrameTransform:
        """A picture -> `out`, one image of the network's input, filled; returns the transform.

        Planes are brought to the network's size before they become BGR: that of a whole frame costs more
        than all the rest. The result differs from that of `YuvImage.to_bgr` by less than 1 grey level on
        average (tests/contract/test_preprocess.py).

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
        planar = isinstance(pixels, YuvImage)
        size = pixels.size if isinstance(pixels, YuvImage) else check_image(pixels).shape[:2]
        if self._seen != (planar, size):
            self._prepare(planar, size)
        canvas = out if self._direct else self._canvas
        if isinstance(pixels, YuvImage):
            self._yuv(pixels, canvas[self._inner])
        else:
            self._bgr(pixels, canvas[self._inner])
        if self._direct:
            self._letterbox(out)
        else:
            self._write(out)
        return self._transform

    def _prepare(self, planar: bool, size: tuple[int, int]) -> None:
        """Buffers for frames of another size or kind."""
        height, width = size
        self._seen = None
        self._transform = place(width, height, self.spec)
        self._inner = self._transform.inner
        self._canvas[:] = self._fill
        wanted = self._canvas[self._inner].shape[:2]
        if planar:
            self._yuv = _YuvResizer(size, wanted)
        else:
            self._bgr = _Resizer((*size, 3), wanted)
        self._seen = (planar, size)

    def _letterbox(self, out: Array) -> None:
        """The letterbox around the frame, from the canvas."""
        rows, columns = self._inner
        if rows.start or rows.stop < self.spec.height:
            out[: rows.start] = self._canvas[: rows.start]
            out[rows.stop :] = self._canvas[rows.stop :]
        if columns.start or columns.stop < self.spec.width:
            out[:, : columns.start] = self._canvas[:, : columns.start]
            out[:, columns.stop :] = self._canvas[:, columns.stop :]

    def _write(self, out: Array) -> None:
        """The canvas as the network takes it: colour order, layout, type."""
        spec = self.spec
        if spec.layout == "NHWC" and spec.dtype == "uint8":
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


class _Resizer:
    """Pictures or planes of one size to another, by the rule in the module's docstring.

    Args:
        shape: (H, W, 3) or (H, W) of what comes. wanted: (height, width).
        steps: see `halvings`. halved: whether means were taken, here or before.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        wanted: tuple[int, int],
        steps: Sequence[tuple[int, int]] | None = None,
        halved: bool | None = None,
    ) -> None:
        (height, width), rest = shape[:2], shape[2:]
        h, w = wanted
        if steps is None:
            steps = halvings((width, height), (w, h))
        self._halves: list[tuple[Array, int]] = []
        for columns, rows in steps:
            height, width = height // rows, width // columns
            # means of two by either; each is OpenCV's fast one for its shape
            method = cv2.INTER_AREA if columns == rows else cv2.INTER_LINEAR
            self._halves.append((np.empty((height, width, *rest), np.uint8), method))
        self._copy = (height, width) == (h, w)
        shrinks = w < width and h < height
        little = (len(steps) > 0 if halved is None else halved) and width <= 2 * w and height <= 2 * h
        self._method = cv2.INTER_AREA if shrinks and not little else cv2.INTER_LINEAR

    def __call__(self, image: Array, out: Array) -> None:
        for half, method in self._halves:
            cv2.resize(image, (half.shape[1], half.shape[0]), dst=half, interpolation=method)
            image = half
        if self._copy:
            out[:] = image
        else:
            cv2.resize(image, (out.shape[1], out.shape[0]), dst=out, interpolation=self._method)


class _YuvResizer:
    """A decoder's planes of one size (height, width) to BGR of another.

    Colour differences have half as many rows and columns, so they take one mean of 2 x 2 less and then the
    same way as luma. Where the frame has an odd side, their last row or column lies half outside it: then
    they are brought to its size, and cut, first.
    """

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        height, width = size
        steps = halvings((width, height), (wanted[1], wanted[0]))
        self._luma = _Resizer(size, wanted, steps)
        self._whole: Array | None = None
        half = ((height + 1) // 2, (width + 1) // 2)
        if height % 2 or width % 2:
            self._whole = np.empty((2 * half[0], 2 * half[1]), np.uint8)
            self._chroma = _Resizer(size, wanted, steps)
        else:
            self._chroma = _Resizer(half, wanted, steps[1:], len(steps) > 0)
        self._size = size
        self._planes = [np.empty(wanted, np.uint8) for _ in range(3)]
        self._merged = np.empty((*wanted, 3), np.uint8)

    def __call__(self, image: YuvImage, out: Image) -> None:
        self._luma(image.y, self._planes[0])
        for plane, small in ((image.u, self._planes[1]), (image.v, self._planes[2])):
            source: Array = plane
            if self._whole is not None:
                size = (self._whole.shape[1], self._whole.shape[0])
                cv2.resize(plane, size, dst=self._whole, interpolation=cv2.INTER_LINEAR)
                source = self._whole[: self._size[0], : self._size[1]]
            self._chroma(source, small)
        cv2.merge(self._planes, self._merged)
        cv2.transform(self._merged, coefficients(image.matrix, image.full_range), dst=out)


def preprocess(pixels: Image | YuvImage, spec: Input) -> tuple[npt.NDArray[Any], FrameTransform]:
    """One picture -> a network input with a batch of 1, and its transform. Raises as `Preprocessor`."""
    out = np.empty((1, *spec.shape[1:]), spec.dtype)
    return out, Preprocessor(spec)(pixels, out[0])
