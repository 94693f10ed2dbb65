"""Anchors: the boxes that a dense detector corrects, of a few shapes at every position of its feature maps.

Made from plain numbers alone, the same on every machine, because the runtime's decoder makes them again from
the spec. A level is a feature map: its stride and the shapes (width, height in network pixels) at each of its
positions. Anchors are ordered level by level, row by row, position by position, shapes innermost.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Shapes: TypeAlias = Sequence[Sequence[float]]
"""(width, height) of each anchor of a position, in pixels."""

RPN_SCALES = (128.0, 256.0, 512.0)
RPN_RATIOS = (0.5, 1.0, 2.0)
SSD_RATIOS = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)


def shapes(scales: Sequence[float] = RPN_SCALES, ratios: Sequence[float] = RPN_RATIOS) -> list[list[float]]:
    """Every scale at every ratio, scales outermost: w = s sqrt(r), h = s / sqrt(r), so that the area is s^2.

    By default the k = 9 of Faster R-CNN, whose images have a shorter side of 600 (Ren et al. 2016, 3.1.1;
    lecture, "Faster R-CNN"). FPN has one scale a level: `[shapes([s]) for s in (32, 64, 128, 256, 512)]`
    (Lin et al. 2017, 4.1).

    Args:
        scales: square roots of areas, in pixels. ratios: width / height.

    Returns:
        (width, height) in pixels, len(scales) x len(ratios) of them.
    """
    return [[s * math.sqrt(r), s / math.sqrt(r)] for s in scales for r in ratios]


def ssd_shapes(
    levels: int,
    side: Sequence[float],
    *,
    smallest: float = 0.2,
    largest: float = 0.9,
    ratios: Sequence[float] = SSD_RATIOS,
) -> list[list[list[float]]]:
    """SSD's default boxes, level by level (Liu et al. 2016, 2.2; lecture, "SSD").

    s_l = s_min + (s_max - s_min) / (L - 1) (l - 1) for l = 1 to L, a fraction of the image's side; a box of
    ratio r has w = s_l sqrt(r), h = s_l / sqrt(r); after those comes one more of ratio 1 and the size
    s'_l = sqrt(s_l s_(l+1)). With the lecture's ratios {1, 2, 3, 1/2, 1/3} that makes six. For the last
    level s_(L+1) is what the formula gives for l = L + 1.

    Args:
        levels: L. side: (height, width) in pixels that the fractions are of: the training size.
        smallest, largest: s_min and s_max. ratios: width / height.

    Returns:
        for each level (width, height) in pixels of its len(ratios) + 1 boxes.

    Raises:
        ValueError: no level.
    """
    if levels < 1:
        raise ValueError(f"{levels} levels, expected 1 or more")
    step = (largest - smallest) / max(1, levels - 1)
    scales = [smallest + step * i for i in range(levels + 1)]
    height, width = side
    made = []
    for s, following in itertools.pairwise(scales):
        boxes = [*shapes([s], ratios), *shapes([math.sqrt(s * following)], [1.0])]
        made.append([[w * width, h * height] for w, h in boxes])
    return made


def grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(rows, columns) of a feature map of this stride: an input's side that it does not divide is rounded up,
    as convolutions of stride 2 with padding do, one after the other.
    """
    return -(-size[0] // stride), -(-size[1] // stride)


def count(size: tuple[int, int], strides: Sequence[int], levels: Sequence[Shapes]) -> int:
    """How many anchors `make_anchors` makes."""
    cells = (math.prod(grid(size, stride)) for stride in strides)
    return sum(n * len(kinds) for n, kinds in zip(cells, levels, strict=True))


def make_anchors(
    size: tuple[int, int], strides: Sequence[int], levels: Sequence[Shapes]
) -> npt.NDArray[np.float32]:
    """The anchors of an input of `size` (height, width): (A, 4) xyxy in its pixels, not cut to it.

    The centre of column j of n is (j + 0.5) / n of the width, rows alike (Liu et al. 2016, 2.2): the middle
    of a stride's cell where the stride divides the side. Made once for all who ask for the same: not to be
    written to.

    Args:
        size: (height, width) of the network input. strides: of each level. levels: the shapes of each.
    """
    return _made((size[0], size[1]), tuple(strides), tuple(tuple(map(tuple, kinds)) for kinds in levels))


@functools.lru_cache(maxsize=8)
def _made(
    size: tuple[int, int], strides: tuple[int, ...], levels: tuple[tuple[tuple[float, ...], ...], ...]
) -> npt.NDArray[np.float32]:
    height, width = size
    made = []
    for stride, kinds in zip(strides, levels, strict=True):
        rows, columns = grid(size, stride)
        y = (np.arange(rows) + 0.5) * height / rows
        x = (np.arange(columns) + 0.5) * width / columns
        centre = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)[:, :, None, :]
        half = np.asarray(kinds, np.float64).reshape(1, 1, -1, 2) / 2
        made.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
    return np.concatenate(made).astype(np.float32)
