"""Y'CbCr planes to BGR, by the matrix and the range that a frame names: the one reference.

OpenCV's own conversions know BT.601 in studio range only; high definition is BT.709, and phones and Motion
JPEG use the full range. The difference is up to 20 grey levels in saturated colours.
"""

from __future__ import annotations

import functools
import threading
from typing import Literal

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]

Matrix = Literal["bt601", "bt709", "bt2020"]
"""Which coefficients turn Y'CbCr into R'G'B' (ITU-R BT.601, BT.709, BT.2020 non-constant luminance)."""

LUMA: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""(Kr, Kb) of each matrix: Y' = Kr R' + (1 - Kr - Kb) G' + Kb B'."""


@functools.cache
def coefficients(matrix: Matrix, full_range: bool) -> npt.NDArray[np.float32]:
    """(3, 4) float32: BGR = m @ (y, u, v, 1), all in 0..255 (before rounding and clipping)."""
    kr, kb = LUMA[matrix]
    kg = 1 - kr - kb
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    black = 0.0 if full_range else 16.0
    rows = np.array(
        [
            [luma, 2 * (1 - kb) * chroma, 0.0],
            [luma, -2 * (1 - kb) * kb / kg * chroma, -2 * (1 - kr) * kr / kg * chroma],
            [luma, 0.0, 2 * (1 - kr) * chroma],
        ]
    )
    offset = -rows @ np.array([black, 128.0, 128.0])
    return np.column_stack([rows, offset]).astype(np.float32)


def planes_to_bgr(
    y: Plane, u: Plane, v: Plane, matrix: Matrix, full_range: bool, out: Plane | None = None
) -> Plane:
    """(H, W, 3) uint8 BGR of 4:2:0 planes, in `out` where that fits.

    Colour differences are taken at the pixels' own places by linear interpolation (their samples lie
    between two rows and at every second column, as in MPEG-2 and H.264, or between both in JPEG; the
    quarter of a pixel between the two is not told apart).
    """
    import cv2

    height, width = y.shape
    if out is None or out.shape != (height, width, 3) or not out.flags.c_contiguous:
        out = np.empty((height, width, 3), np.uint8)
    merged, big_u, big_v = _buffers(height, width)
    size = (big_u.shape[1], big_u.shape[0])
    cv2.resize(u, size, dst=big_u, interpolation=cv2.INTER_LINEAR)
    cv2.resize(v, size, dst=big_v, interpolation=cv2.INTER_LINEAR)
    cv2.merge([y, big_u[:height, :width], big_v[:height, :width]], merged)
    cv2.transform(merged, coefficients(matrix, full_range), dst=out)
    return out


_of_thread = threading.local()


def _buffers(height: int, width: int) -> tuple[Plane, Plane, Plane]:
    """For the planes in between, (H, W, 3) and twice (even H, even W).

    Kept by each thread for the size it had last: new memory of this size costs as much as the arithmetic.
    """
    kept: tuple[Plane, Plane, Plane] | None = getattr(_of_thread, "buffers", None)
    if kept is None or kept[0].shape[:2] != (height, width):
        even = (height + height % 2, width + width % 2)
        kept = (
            np.empty((height, width, 3), np.uint8),
            np.empty(even, np.uint8),
            np.empty(even, np.uint8),
        )
        _of_thread.buffers = kept
    return kept
