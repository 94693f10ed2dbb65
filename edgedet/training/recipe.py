"""What a run is made of: every number that a repetition needs, and the recipes per model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgedet.contract.numbers import check_count, check_number
from edgedet.contract.spec_check import MAX_SIDE


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Args:
        epochs: passes over the training set.
        batch: images per step, over all processes.
        lr: peak learning rate of the fresh layers (AdamW).
        backbone_lr: the pretrained layers learn at lr x this.
        weight_decay: AdamW's, on weights of more than one dimension only.
        warmup: steps of linear increase; then a cosine down to `final_lr` x lr.
        ema: decay of the averaged weights, which are what is evaluated and saved.
        clip: gradient norm limit.
        patience: stop when the validation score has not risen for this many evaluations; 0 = never.
        phases: epochs of each phase of a training in several (`training.phases`), `epochs` in all; none: all
            is trained at once.
        mild_epochs: so many epochs at the end see a detector's images expanded and cropped by little only.
        mosaic: share of a detector's images that are made of four, before those epochs; no others are then
            expanded. Of models that are trained on boxes alone.
        letterbox: share of a detector's images that keep their aspect, with bars.
        window: height and width of the windows that a semantic model is trained on, cut from the images;
            none: of the network's input size.
        scale: range of the scale of those windows; 1 shows the whole image, as large as it fits.
        upright: False for pictures without an up (microscopy, from the air): flipped vertically too.
        frozen: parts of the network that stay as they were given.
        model: options of the model's class.

    Raises:
        UsageError: a number that cannot be meant.
    """

    epochs: int = 14
    batch: int = 16
    lr: float = 1e-3
    backbone_lr: float = 0.3
    weight_decay: float = 0.02
    warmup: int = 100
    final_lr: float = 0.02
    ema: float = 0.998
    clip: float = 10.0
    patience: int = 0
    phases: tuple[int, ...] = ()
    mild_epochs: int = 0
    mosaic: float = 0.0
    letterbox: float = 0.0
    window: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    upright: bool = True
    frozen: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            check_count(name, getattr(self, name))
        for name in ("warmup", "patience", "mild_epochs"):
            check_count(name, getattr(self, name), least=0)
        for name in ("lr", "clip"):
            check_number(name, getattr(self, name), above=True)
        for name in ("backbone_lr", "weight_decay"):
            check_number(name, getattr(self, name))
        for name in ("final_lr", "ema", "mosaic", "letterbox"):
            check_number(name, getattr(self, name), most=1.0)
        for side in self.window or ():
            check_count("a side of the window", side, most=MAX_SIDE)
        low, high = self.scale
        check_number("the least scale", low, above=True)
        check_number("the greatest scale", high, least=low)


SEGMENTATION = Recipe(
    epochs=30,
    batch=8,
    ema=0.99,
    window=(256, 320),
    scale=(1.0, 2.25),
    model={"loss": "cross-entropy+dice"},
)

RECIPES: dict[str, Recipe] = {
    # the lecture's loss finds objects; its squared errors leave boxes loose, which the GIoU term mends, and
    # of the cells that see an object any may have the best box
    "yolo": Recipe(
        epochs=30, mild_epochs=5, mosaic=0.125, letterbox=0.25, model={"giou": 4.0, "neighbours": 0.5}
    ),
    # few images (those with one object), so many passes over them; best from the shipped YOLO's weights
    "localizer": Recipe(epochs=40),
    # the pyramid's stride 8 finds the small fifth of VOC's objects, which the plain levels miss
    "ssd": Recipe(epochs=30, mild_epochs=4, model={"neck": "fpn"}),
    # 8 crops of an image in each step; what follows the epochs costs as much again
    "rcnn": Recipe(mild_epochs=3),
    # regions come from Selective Search, whatever is learned: what they show is settled in 14 epochs
    "fast-rcnn": Recipe(mild_epochs=3),
    # a step costs twice YOLO's; its regions are found early, 16 epochs settle their classes
    "faster-rcnn": Recipe(epochs=16, mild_epochs=3, model={"neck": "fpn"}),
    # from faster-rcnn's weights (--weights), on Penn-Fudan's 120 images: the mask head is fresh
    "mask-rcnn": Recipe(epochs=60, batch=8, mild_epochs=6, ema=0.99, model={"neck": "fpn"}),
    # street scenes: windows of half the image's pixels, at 0.7 to 1.5 of the scale the network will see;
    # Dice gives poles and signs a say beside road and sky
    "fcn": SEGMENTATION,
    # its scores are learned from nothing in 32 narrow channels: at 1e-3 the rare classes stay at zero
    "unet": replace(SEGMENTATION, lr=3e-3, model={"loss": "cross-entropy+dice", "upsampling": "bilinear"}),
    "deeplabv3plus": SEGMENTATION,
}
"""What `edgedet-train --model NAME` does without further options."""
