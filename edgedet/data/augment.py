"""Augmentation and batching, with torchvision.transforms.v2: image, boxes and masks move together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgedet.contract.spec import VOID
from edgedet.contract.targets import Targets
from edgedet.data.sample import Sample


def detection_transform(size: tuple[int, int], *, train: bool, fill: tuple[int, int, int]) -> v2.Compose:
    """What a detector sees of a sample.

    Training: colour (SSD's photometric distortion), expand up to twice the side, a crop that keeps at
    least one object by IoU (Liu et al. 2016, 2.2), flip. Always: stretch to `size` (height, width), as
    YOLO's and SSD's papers do; drop boxes thinner than a pixel.
    """
    steps: list[v2.Transform] = []
    if train:
        steps = [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill={tv_tensors.Image: fill, "others": 0}, side_range=(1.0, 2.0), p=0.4),
            v2.RandomIoUCrop(min_scale=0.3, trials=10),
            v2.RandomHorizontalFlip(),
        ]
    # antialiasing as cv2's INTER_AREA does when a frame shrinks; VOC at 320 px is never shrunk much
    steps.append(v2.Resize(size, antialias=True))
    if train:
        steps.append(v2.SanitizeBoundingBoxes(min_size=2.0, labels_getter=_labels))
    return v2.Compose(steps)


def segmentation_transform(
    size: tuple[int, int],
    *,
    train: bool,
    fill: tuple[int, int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    upright: bool = True,
) -> v2.Compose:
    """What a semantic model sees of a sample: image and class map move together.

    Training: a window of the image at a random scale (DeepLab's 0.5 to 2; Chen et al. 2018, 4), which may
    reach beyond it: there the image is `fill` and the map void; a horizontal flip; last, colour.
    Otherwise: stretched to `size`.

    Args:
        size: (height, width) of the network's input.
        train: with the random steps.
        fill: RGB, 0 to 255, of what lies outside the image.
        scale: range of the scale; 1 shows the whole image, as large as it fits into `size`.
        upright: False for pictures without an up (microscopy, from the air): flipped vertically too.
    """
    if not train:
        return v2.Compose([Stretch(size)])
    steps: list[v2.Transform] = [RandomWindow(size, scale, fill), v2.RandomHorizontalFlip()]
    if not upright:
        steps.append(v2.RandomVerticalFlip())
    steps.append(
        v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)], p=0.5)
    )
    return v2.Compose(steps)


class Stretch(v2.Transform):  # type: ignore[misc]  # torchvision is not typed
    """Resize to `size` (height, width): images smoothly, masks to the label at each pixel's centre.

    v2.Resize takes masks by torch's "nearest", which moves labels by half a pixel against their image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = list(size)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, mask or set of boxes."""
        if isinstance(inpt, tv_tensors.Mask):
            plane = inpt.as_subclass(Tensor)[None]
            moved = v2.functional.resize_image(
                plane, self.size, interpolation=v2.InterpolationMode.NEAREST_EXACT
            )
            return tv_tensors.wrap(moved[0], like=inpt)
        return v2.functional.resize(inpt, self.size, antialias=True)


class RandomWindow(Stretch):
    """Cut a window of `size`'s aspect from the image at a random scale, and stretch it to `size`.

    scale: 1 is the window that just holds the whole image; its range is drawn from evenly in octaves.
    What of the window lies outside the image is `fill` (RGB), in masks void.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float], fill: tuple[int, int, int]) -> None:
        super().__init__(size)
        self.scale = scale
        self.fill = {tv_tensors.Image: list(fill), tv_tensors.Mask: VOID}

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The window in pixels of the image: {"top", "left", "height", "width", "padding"}."""
        rows, columns = v2.query_size(flat_inputs)
        low, high = (math.log(s) for s in self.scale)
        zoom = math.exp(low + (high - low) * float(torch.rand(())))
        pixel = max(rows / self.size[0], columns / self.size[1]) / zoom  # of the output, in the image's
        height, width = (max(1, round(s * pixel)) for s in self.size)
        top, left = _start(rows, height), _start(columns, width)
        # left, top, right, bottom
        padding = [max(0, -left), max(0, -top), max(0, left + width - columns), max(0, top + height - rows)]
        return {"top": top, "left": left, "height": height, "width": width, "padding": padding}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, mask or set of boxes."""
        left, top, *_ = padding = params["padding"]
        if any(padding):
            inpt = v2.functional.pad(inpt, padding, fill=self.fill.get(type(inpt)))
        window = params["top"] + top, params["left"] + left, params["height"], params["width"]
        return super().transform(v2.functional.crop(inpt, *window), params)


def _start(length: int, window: int) -> int:
    """Where a window of this length starts, so that it lies inside or, if longer, holds everything."""
    low, high = sorted((0, length - window))
    return low + int(torch.randint(high - low + 1, ()))


def apply(transform: v2.Compose, sample: Sample) -> tuple[Tensor, Targets]:
    """-> image (3, H, W) uint8 RGB and its targets (class map too, if it has one) in pixels of that image."""
    height, width = sample.image.shape[:2]
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(np.ascontiguousarray(sample.boxes)), format="XYXY", canvas_size=(height, width)
    )
    data: dict[str, Any] = {
        "image": tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)),
        "boxes": boxes,
        "labels": torch.from_numpy(sample.labels),
        "ignore": torch.from_numpy(sample.ignore),
    }
    if sample.class_map is not None:
        data["class_map"] = tv_tensors.Mask(torch.from_numpy(sample.class_map))
    out = transform(data)
    return out["image"].as_subclass(Tensor), Targets(
        out["boxes"].as_subclass(Tensor).float(),
        out["labels"],
        out["ignore"],
        out["class_map"].as_subclass(Tensor) if sample.class_map is not None else None,
    )


def _labels(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return inputs["labels"], inputs["ignore"]
