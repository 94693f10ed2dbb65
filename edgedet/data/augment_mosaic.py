"""Four photographs in one: small objects, with photographs around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgedet.data.augment import DropThin, Photometric, Stretch, cut

VISIBLE = 0.3
"""Share of its box that a tile shows of an object at least: a tile full of fur says nothing of a cat."""


def mosaic_transform(size: tuple[int, int]) -> v2.Compose:
    """What a detector sees of four samples at once: a mosaic, its colour, its mirror image.

    It takes the place of the expansion: small objects, with photographs around them instead of one colour.
    """
    return v2.Compose([Mosaic(size), Photometric(p=0.5), v2.RandomHorizontalFlip(), DropThin(2.0)])


class Mosaic(v2.Transform):  # type: ignore[misc]
    """Four samples in one, a tile each (Bochkovskiy et al. 2020, 3.3); they meet near the middle.

    Each is stretched to `zoom` times the network's size, evenly drawn in octaves, and a window of its tile's
    size is cut from it that holds the centre of one of its objects; see `cut`, and `VISIBLE`.

    Args:
        size: (height, width) of what comes out. zoom: range of the scale.
    """

    def __init__(self, size: tuple[int, int], zoom: tuple[float, float] = (0.5, 1.0)) -> None:
        super().__init__()
        self.size, self.zoom = size, zoom

    def forward(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Four samples as `apply` makes them -> one, of boxes alone."""
        (height, width), image = self.size, torch.empty(3, *self.size, dtype=torch.uint8)
        y, x = (int(side * (0.35 + 0.3 * float(torch.rand(())))) for side in self.size)
        boxes, labels, ignore = [], [], []
        places = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
        for sample, (top, left, bottom, right) in zip(samples, places, strict=True):
            tile = self._tile(sample, bottom - top, right - left)
            image[:, top:bottom, left:right] = tile["image"]
            boxes.append(tile["boxes"].as_subclass(Tensor) + torch.tensor([left, top, left, top]))
            labels.append(tile["labels"])
            ignore.append(tile["ignore"])
        return {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=self.size),
            "labels": torch.cat(labels),
            "ignore": torch.cat(ignore),
        }

    def _tile(self, sample: dict[str, Any], height: int, width: int) -> dict[str, Any]:
        """A window of a sample, height x width pixels."""
        low, high = (math.log(z) for z in self.zoom)
        zoom = math.exp(low + (high - low) * float(torch.rand(())))
        # no smaller than the tile
        zoom = max(zoom, height / self.size[0], width / self.size[1])
        rows, columns = max(height, round(zoom * self.size[0])), max(width, round(zoom * self.size[1]))
        whole = Stretch((rows, columns))(sample)
        boxes = whole["boxes"].as_subclass(Tensor)[~sample["ignore"]]
        shown = torch.tensor([columns / 2, rows / 2])
        if len(boxes):
            one = boxes[int(torch.randint(len(boxes), ()))]
            shown = (one[:2] + one[2:]) / 2
        left = _start_around(float(shown[0]), width, columns)
        top = _start_around(float(shown[1]), height, rows)
        return cut(whole, torch.tensor([left, top, left + width, top + height]), VISIBLE)


def _start_around(shown: float, length: int, whole: int) -> int:
    """Where a window of this length in 0..whole starts, so that it holds the point `shown`."""
    low, high = max(0, math.floor(shown) + 1 - length), min(math.ceil(shown) - 1, whole - length)
    return low + int(torch.randint(max(0, high - low) + 1, ()))
