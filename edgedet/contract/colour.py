"""Y'CbCr planes to BGR, by the matrix and the range that a frame names: the one reference.

OpenCV's own conversions know BT.601 in studio range only; high definition is BT.709, and phones and Motion
JPEG use the full range. The difference is up to 20 grey levels in saturated colours.
"""

from __future__ import annotations

import functools
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

    Four pixels share a sample of the colour differences, as in most decoders' own conversions. Taking them
    by interpolation costs more than twice as much on a CPU; over real frames the two differ by less than a
    grey level on average.
    """
    import cv2

    height, width = y.shape
    if out is None or out.shape != (height, width, 3) or not out.flags.c_contiguous:
        out = np.empty((height, width, 3), np.uint8)
    # every sample twice in a row, and every such row for two rows
    wide = [cv2.merge([p, p]).reshape(len(p), -1)[:, :width] for p in (u, v)]
    for parity in range(min(2, height)):
        rows = y[parity::2]
        cv2.merge([rows, *(p[: len(rows)] for p in wide)], out[parity::2])
    cv2.transform(out, coefficients(matrix, full_range), dst=out)  # pixel by pixel, so in place
    return out
