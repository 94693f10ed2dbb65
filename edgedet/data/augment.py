"""Augmentation and batching, with torchvision.transforms.v2: image, boxes and masks move together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgedet.data.sample import Sample
from edgedet.models.base import Targets


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


def apply(transform: v2.Compose, sample: Sample) -> tuple[Tensor, Targets]:
    """-> image (3, H, W) uint8 RGB and its targets in pixels of that image."""
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
    out = transform(data)
    return out["image"].as_subclass(Tensor), Targets(
        out["boxes"].as_subclass(Tensor).float(), out["labels"], out["ignore"]
    )


def _labels(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return inputs["labels"], inputs["ignore"]
