"""Y'CbCr planes to BGR, by the matrix and the range that the frame names: the one reference.

OpenCV's own conversions know BT.601 in studio range only; high definition is BT.709, and phones and Motion
JPEG use the full range. The difference is up to 20 grey levels in saturated colours.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.frames import LUMA, Image, Matrix, YuvImage


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


def to_bgr(image: YuvImage, out: Image | None = None) -> Image:
    """(H, W, 3) uint8 BGR of a decoder's planes, in `out` where that fits.

    Colour differences are taken at the pixels' own places by linear interpolation (their samples lie
    between two rows and at every second column, as in MPEG-2 and H.264, or between both in JPEG; the
    quarter of a pixel between the two is not told apart).
    """
    height, width = image.size
    if out is None or out.shape != (height, width, 3) or not out.flags.c_contiguous:
        out = np.empty((height, width, 3), np.uint8)
    planes = np.empty((height, width, 3), np.uint8)
    planes[..., 0] = image.y
    for channel, plane in ((1, image.u), (2, image.v)):
        big = cv2.resize(plane, (plane.shape[1] * 2, plane.shape[0] * 2), interpolation=cv2.INTER_LINEAR)
        planes[..., channel] = big[:height, :width]
    cv2.transform(planes, coefficients(image.matrix, image.full_range), dst=out)
    return out
