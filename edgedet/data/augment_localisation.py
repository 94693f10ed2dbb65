"""Augmentation of images with one object: the object stays whole, and stays alone."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2


def localisation_transform(size: tuple[int, int], *, train: bool, fill: tuple[int, int, int]) -> v2.Compose:
    """What a localizer sees of a sample.

    Training: colour, expand up to twice the side (Liu et al. 2016, 2.2), a window that holds the whole
    object, flip. Always: stretch to `size` (height, width). The box that is left is that of the whole
    object, whatever was drawn.

    Args:
        size: (height, width) of the network's input. train: with the random steps.
        fill: RGB, 0 to 255, of what lies outside the image.
    """
    steps: list[v2.Transform] = []
    if train:
        colour = v2.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.4, hue=0.05)
        steps = [
            v2.RandomApply([colour], p=0.6),
            v2.RandomZoomOut(fill={tv_tensors.Image: fill, "others": 0}, side_range=(1.0, 2.0), p=0.3),
            v2.RandomApply([CropAroundObjects()], p=0.7),
            v2.RandomHorizontalFlip(),
        ]
    return v2.Compose([*steps, v2.Resize(size, antialias=True)])


class CropAroundObjects(v2.Transform):  # type: ignore[misc]  # torchvision is not typed
    """Cut a random window that holds every box whole; each of its sides is drawn evenly, on its own."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The window in pixels of the image: {"top", "left", "height", "width"}."""
        rows, columns = v2.query_size(flat_inputs)
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes))
        if len(boxes):
            left, top = boxes[:, :2].amin(dim=0).floor().int().tolist()
            right, bottom = boxes[:, 2:].amax(dim=0).ceil().int().tolist()
        else:
            left, top, right, bottom = 0, 0, columns, rows
        x0, y0 = _between(0, left), _between(0, top)
        x1, y1 = _between(right, columns), _between(bottom, rows)
        return {"top": y0, "left": x0, "height": y1 - y0, "width": x1 - x0}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, mask or set of boxes."""
        return v2.functional.crop(inpt, **params)


def _between(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + int(torch.randint(max(0, high - low) + 1, ()))
