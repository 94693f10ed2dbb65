"""Augmentation and batching, with torchvision.transforms.v2: image, boxes and masks move together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgedet.contract.boxes import area, pairwise_iou
from edgedet.contract.preprocess import place
from edgedet.contract.spec import VOID, Input
from edgedet.contract.targets import Targets
from edgedet.data.sample import Sample


def detection_transform(
    size: tuple[int, int],
    *,
    train: bool,
    fill: tuple[int, int, int],
    mild: bool = False,
    letterbox: float = 0.0,
    expand: float = 0.5,
) -> v2.Compose:
    """What a detector sees of a sample.

    Training: colour (SSD's photometric distortion), expand, a crop that keeps at least one object by IoU
    (Liu et al. 2016, 2.2), flip. Always: stretch to `size` (height, width), as YOLO's and SSD's papers do,
    or a share of them with bars, in their own aspect; objects thinner than two pixels are dropped.

    How far and how often is chosen so that the objects are as large, in the geometric mean, as those of
    whole images are: with SSD's own numbers they were 1.17 times as large as VOC val's, and a network
    trained on them found more at a larger input than at its own.

    Args:
        mild: expand and crop by little only: what an image looks like to the deployed network.
        letterbox: share of the images that keep their aspect, so that wide ones need not be stretched.
        expand: share of the images that are expanded.
    """
    steps: list[v2.Transform] = []
    if train:
        side, least, overlaps = (1.5, 0.75, (0.0,)) if mild else (2.5, 0.3, OVERLAPS)
        background = {tv_tensors.Image: fill, "others": 0}
        steps = [
            Photometric(p=0.5),
            v2.RandomZoomOut(fill=background, side_range=(1.0, side), p=expand),
            ObjectCrop(least, overlaps, p=0.5 if mild else 0.6),
            v2.RandomHorizontalFlip(),
        ]
    # antialiasing as cv2's INTER_AREA does when a frame shrinks; VOC at 320 px is never shrunk much
    fits: v2.Transform = Stretch(size)
    if letterbox:
        fits = v2.RandomChoice([fits, Letterbox(size, fill)], p=[1 - letterbox, letterbox])
    steps.append(fits)
    if train:
        steps.append(DropThin(2.0))
    return v2.Compose(steps)


class Photometric(v2.RandomPhotometricDistort):  # type: ignore[misc]  # torchvision is not typed
    """SSD's photometric distortion but for the permuted channels: no camera gives a blue face."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """As torchvision's; the colours stay in their channels."""
        return {**super().make_params(flat_inputs), "channel_permutation": None}


class ObjectCrop(v2.Transform):  # type: ignore[misc]
    """Crop a window that overlaps at least one object well (Liu et al. 2016, 2.2); see `cut`.

    Args:
        least: the window's sides are at least this share of the image's.
        overlaps: one of them is drawn; an object whose centre is inside has at least this IoU with the
            window.
        p: how often it crops at all.
    """

    trials = 50

    def __init__(self, least: float, overlaps: Sequence[float], p: float) -> None:
        super().__init__()
        self.least, self.overlaps, self.p = least, tuple(overlaps), p

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A sample as `apply` makes it."""
        boxes = sample["boxes"].as_subclass(Tensor)
        if float(torch.rand(())) >= self.p:
            return sample
        window = self._window(sample["boxes"].canvas_size, boxes[~sample["ignore"]])
        if window is None:
            return sample
        return cut(sample, window)

    def _window(self, canvas: tuple[int, int], boxes: Tensor) -> Tensor | None:
        """(4,) xyxy in pixels, for objects (n, 4); None if no trial found one."""
        size = torch.tensor(canvas).flip(0)  # width, height
        for _ in range(self.trials if len(boxes) else 0):
            overlap = self.overlaps[int(torch.randint(len(self.overlaps), ()))]
            sides = ((self.least + (1 - self.least) * torch.rand(2)) * size).long().clamp(min=1)
            start = ((size - sides + 1) * torch.rand(2)).long()
            window = torch.cat([start, start + sides]).float()
            inside = boxes[_centred(boxes, window)]
            if not (0.5 <= sides[0] / sides[1] <= 2 and len(inside)):
                continue
            if float(pairwise_iou(inside, window[None]).max()) >= overlap:
                return window
        return None


def cut(sample: dict[str, Any], window: Tensor, visible: float = 0.0) -> dict[str, Any]:
    """What of a sample a window (4,), xyxy in whole pixels, shows.

    An object whose centre lies outside the window, or of whose box it shows less than the share `visible`,
    is no longer to be found. What is visible of it is no background either: from then on it is ignored, its
    box cut to the window.
    """
    left, top, right, bottom = (int(side) for side in window.tolist())
    place = top, left, bottom - top, right - left
    moved = {
        key: v2.functional.crop(value, *place) if isinstance(value, tv_tensors.TVTensor) else value
        for key, value in sample.items()
    }
    before, after = (s["boxes"].as_subclass(Tensor) for s in (sample, moved))
    seen = _centred(before, window) & (area(after) >= visible * area(before))
    return {**moved, "ignore": sample["ignore"] | ~seen}


OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""SSD's least overlaps of a crop with an object (Liu et al. 2016, 2.2)."""


def _centred(boxes: Tensor, window: Tensor) -> Tensor:
    """(n,) bool: whose centre lies in the window (4,)."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centre > window[:2]) & (centre < window[2:])).all(dim=1)


class DropThin(v2.Transform):  # type: ignore[misc]
    """Drop objects, and proposals, of which a crop left less than `least` pixels of width or height."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A sample as `apply` makes it."""
        keep = self._thick(sample["boxes"])
        kept = {key: _rows(sample[key], keep) for key in PER_OBJECT if key in sample}
        if "proposals" in sample:
            kept["proposals"] = _rows(sample["proposals"], self._thick(sample["proposals"]))
        return sample | kept

    def _thick(self, boxes: Tensor) -> Tensor:
        """(n,) bool."""
        sides = boxes.as_subclass(Tensor)[:, 2:] - boxes.as_subclass(Tensor)[:, :2]
        return (sides >= self.least).all(dim=1)


PER_OBJECT = ("boxes", "labels", "ignore", "masks")
"""What of a sample has a row for each object."""


def _rows(value: Tensor, keep: Tensor) -> Tensor:
    """The rows kept, of the kind they were."""
    rows = value.as_subclass(Tensor)[keep]
    if not isinstance(value, tv_tensors.TVTensor):
        return rows
    wrapped: Tensor = tv_tensors.wrap(rows, like=value)
    return wrapped


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
        size = params.get("inner", self.size)
        if isinstance(inpt, tv_tensors.Mask):
            plane = inpt.as_subclass(Tensor)[None]
            if not plane.numel():  # no object
                return tv_tensors.wrap(plane.new_zeros((0, *size)), like=inpt)
            if plane.ndim == 4:  # (1, n, H, W): a mask for each object
                moved = v2.functional.resize_image(
                    plane[0], size, interpolation=v2.InterpolationMode.NEAREST_EXACT
                )
                return tv_tensors.wrap(moved, like=inpt)
            moved = v2.functional.resize_image(plane, size, interpolation=v2.InterpolationMode.NEAREST_EXACT)
            return tv_tensors.wrap(moved[0], like=inpt)
        return v2.functional.resize(inpt, size, antialias=True)


class Letterbox(Stretch):
    """Resize to fit into `size` (height, width), with bars: where `contract.preprocess` puts a frame.

    fill: RGB, 0 to 255, of the bars.
    """

    def __init__(self, size: tuple[int, int], fill: tuple[int, int, int]) -> None:
        super().__init__(size)
        self.fill = {tv_tensors.Image: list(fill), tv_tensors.Mask: 0}
        self.rule = Input("images", *size, (0.0,) * 3, (1.0,) * 3, resize="letterbox")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """{"inner": (height, width) of the image in it, "padding": left, top, right, bottom}."""
        rows, columns = v2.query_size(flat_inputs)
        height, width = self.size
        down, across = place(columns, rows, self.rule).inner
        inner = [down.stop - down.start, across.stop - across.start]
        return {
            "inner": inner,
            "padding": [across.start, down.start, width - across.stop, height - down.stop],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, mask or set of boxes."""
        moved = super().transform(inpt, params)
        return v2.functional.pad(moved, params["padding"], fill=self.fill.get(type(inpt)))


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


def apply(transform: v2.Compose, sample: Sample, *more: Sample, regions: int = 0) -> tuple[Tensor, Targets]:
    """-> image (3, H, W) uint8 RGB and its targets (maps and masks too) in pixels of that image.

    Args:
        transform: of one sample, or of several (`edgedet.data.augment_mosaic`: four).
        regions: rows of `Targets.proposals`, where the sample has proposals: the best that are left.
    """
    out = transform([_tensors(s) for s in (sample, *more)] if more else _tensors(sample))
    some = (out.get(key) for key in ("class_map", "masks", "proposals"))
    class_map, masks, proposals = (None if a is None else a.as_subclass(Tensor) for a in some)
    return out["image"].as_subclass(Tensor), Targets(
        out["boxes"].as_subclass(Tensor).float(),
        out["labels"],
        out["ignore"],
        class_map,
        None if masks is None else masks.bool(),
        None if proposals is None else _filled(proposals, regions),
    )


def _tensors(sample: Sample) -> dict[str, Any]:
    """A sample as torchvision's transforms take it."""
    height, width = sample.image.shape[:2]

    def moving(boxes: npt.NDArray[np.float32]) -> tv_tensors.BoundingBoxes:
        plain = torch.from_numpy(np.ascontiguousarray(boxes))
        return tv_tensors.BoundingBoxes(plain, format="XYXY", canvas_size=(height, width))

    data: dict[str, Any] = {
        "image": tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)),
        "boxes": moving(sample.boxes),
        "labels": torch.from_numpy(sample.labels),
        "ignore": torch.from_numpy(sample.ignore),
    }
    if sample.class_map is not None:
        data["class_map"] = tv_tensors.Mask(torch.from_numpy(sample.class_map))
    if sample.masks is not None:
        data["masks"] = tv_tensors.Mask(torch.from_numpy(sample.masks.astype(np.uint8)))
    if sample.proposals is not None:
        data["proposals"] = moving(sample.proposals)
    return data


def _filled(boxes: Tensor, rows: int) -> Tensor:
    """The first of the boxes (n, 4) as (rows, 4) float32, with rows of zeros where there are fewer."""
    filled = torch.zeros(rows, 4)
    filled[: len(boxes)] = boxes[:rows]
    return filled
