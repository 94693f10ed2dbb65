"""What a source hands on: one image with where and when it comes from, and what happened between two.

Pixels are not always a host BGR array. A decoder works in planes of luma and colour differences, and most
of a frame's cost on a small CPU is turning those into BGR that nobody looks at. So a `Frame` hands out BGR
on demand, made once and kept, and the decoder's planes to those who can use them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.contract.colour import Matrix, planes_to_bgr
from edgedet.contract.errors import ImageError

Image: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 BGR, OpenCV's order."""


@dataclass(frozen=True, eq=False)
class YuvImage:
    """A decoder's 4:2:0 planes, uint8: y (H, W), u and v (ceil(H / 2), ceil(W / 2)).

    full_range: 0..255 for all three; else 16..235 for y and 16..240 for u and v. The planes may be views
    of memory that belongs to `owner`, which keeps it alive.
    """

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]
    matrix: Matrix = "bt601"
    full_range: bool = False
    owner: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        height, width = self.y.shape if self.y.ndim == 2 else (0, 0)
        half = ((height + 1) // 2, (width + 1) // 2)
        for name, plane, shape in (("y", self.y, (height, width)), ("u", self.u, half), ("v", self.v, half)):
            if plane.dtype != np.uint8 or plane.shape != shape or not plane.size:
                raise ImageError(f"The plane {name} is {plane.dtype} {plane.shape}, expected uint8 {shape}.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.y.shape
        return height, width

    def to_bgr(self, out: Image | None = None) -> Image:
        """(H, W, 3) uint8 BGR, in `out` where that fits."""
        return planes_to_bgr(self.y, self.u, self.v, self.matrix, self.full_range, out)


def check_image(image: object) -> Image:
    """`image` if it is a picture as edgedet takes them, (H, W, 3) uint8 BGR; ImageError otherwise.

    Every entry of pixels asks here: a library that finds other types may leave its output buffer as it
    was, and the picture before would be taken for this one.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
        height, width, channels = image.shape
        if channels == 3 and height > 0 and width > 0:
            return image
    if isinstance(image, np.ndarray):
        got = f"{image.dtype} of shape {image.shape}"
        hint = _CONVERSIONS.get(_kind(image), "Give what cv2.imread or a camera gives.")
    else:
        got, hint = type(image).__name__, "cv2.imread returns None for a file it cannot read."
    raise ImageError(f"An image is {got}, expected uint8 of shape (height, width, 3), BGR.", hint=hint)


_CONVERSIONS = {
    "grey": "A grey image: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).",
    "alpha": "An image with alpha: cv2.cvtColor(image, cv2.COLOR_BGRA2BGR).",
    "deep": "16 bits: (image >> 8).astype(numpy.uint8).",
    "float": "Floats: scale to 0..255 and image.astype(numpy.uint8).",
    "planar": "Channels come last: numpy.ascontiguousarray(image.transpose(1, 2, 0)).",
    "batch": "One image at a time: image[0].",
    "empty": "The image has no pixels.",
}


def _kind(image: npt.NDArray[Any]) -> str:
    """What is unusual about an array, as a key of `_CONVERSIONS`; "" if that cannot be told."""
    if not image.size:
        return "empty"
    if image.dtype.kind == "f":
        return "float"
    if image.dtype.itemsize == 2:
        return "deep"
    shape = image.shape
    if image.ndim == 2 or (image.ndim == 3 and shape[2] == 1):
        return "grey"
    if image.ndim == 3 and shape[2] == 4:
        return "alpha"
    if image.ndim == 3 and shape[0] == 3:
        return "planar"
    return "batch" if image.ndim == 4 else ""


class Frame:
    """One image of a source.

    The pixels are borrowed: the source may reuse them once the pipeline releases the frame.

    Attributes:
        index: counts the source's frames from 0, dropped ones included.
        captured: `time.monotonic()` seconds when the frame came: of a live source, when it was in hand; of
            a file, when reading it began.
        source: the name of where it came from, fit for logs.
        media_time: seconds from the beginning of the medium, as its container says; None for images and
            where it does not say.
        utc: seconds since 1970 (`time.time()`) at `captured`.
        file: the file it was read from, empty for cameras and streams.
    """

    __slots__ = ("_bgr", "_buffer", "_yuv", "captured", "file", "index", "media_time", "source", "utc")

    def __init__(
        self,
        pixels: Image | YuvImage,
        index: int = 0,
        captured: float | None = None,
        source: str = "",
        *,
        media_time: float | None = None,
        utc: float | None = None,
        file: str = "",
        buffer: Image | None = None,
    ) -> None:
        """Raises ImageError: `pixels` are not uint8 (H, W, 3) or the planes of a `YuvImage`.

        Args:
            pixels: BGR, or a decoder's planes.
            index, captured, source, media_time, utc, file: see the attributes; now by default.
            buffer: where BGR made of planes goes, if it fits.
        """
        self._yuv = pixels if isinstance(pixels, YuvImage) else None
        self._bgr = None if isinstance(pixels, YuvImage) else check_image(pixels)
        self._buffer = buffer
        self.index = index
        self.captured = time.monotonic() if captured is None else captured
        self.source = source
        self.media_time = media_time
        self.utc = time.time() - (time.monotonic() - self.captured) if utc is None else utc
        self.file = file

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, known without making BGR."""
        if self._yuv is not None:
            return self._yuv.size
        assert self._bgr is not None
        return self._bgr.shape[0], self._bgr.shape[1]

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR; made of the planes at the first call, and kept. May be drawn into."""
        if self._bgr is None:
            assert self._yuv is not None
            self._bgr = self._buffer = self._yuv.to_bgr(self._buffer)
        return self._bgr

    @property
    def yuv(self) -> YuvImage | None:
        """The decoder's planes, where it has them. They never carry an overlay."""
        return self._yuv

    def release(self) -> Image | None:
        """Let go of the pixels; returns the BGR buffer, if there is one, for the next frame."""
        buffer = self._buffer if self._bgr is None else self._bgr
        self._yuv = self._bgr = self._buffer = None
        return buffer


@dataclass(frozen=True)
class Notice:
    """What happened to a source between two frames.

    kind: "lost" (no frames until it is back), "back", "size" (from here on frames have another size),
    "damaged" (something could not be decoded and was passed over), "note" (anything else).
    utc: seconds since 1970.
    """

    text: str
    kind: Literal["lost", "back", "size", "damaged", "note"] = "note"
    utc: float = field(default_factory=time.time)
