"""SSD of the lecture: default boxes on several feature maps, one pass (Liu et al. 2016, arXiv:1512.02325).

At every position of every level stand six default boxes: the ratios {1, 2, 3, 1/2, 1/3} at the level's scale
s_l, and ratio 1 at s'_l = sqrt(s_l s_(l+1)). For each the network says K + 1 class logits, background first,
and four deltas that make the box fit.

Where this departs from the paper, and why:

- Backbone EfficientNet-Lite0 instead of VGG16: made for edge devices and INT8. Its levels begin at stride 16,
  so the smallest boxes are 0.15 of the side there; the further levels are depthwise-separable convolutions
  of stride 2.
- With `neck="fpn"` the levels of the backbone are those of a feature pyramid (Lin et al. 2017; lecture,
  "FPN") and begin at stride 8 with boxes of 0.1: a fifth of VOC's objects are smaller than 45 px at 320 px,
  and what the backbone itself knows at stride 8 is too little to name them.
- A separable convolution before the predictions of each level, which are then 1x1 (as in SSDLite).
- All levels have six boxes; the paper leaves out 3 and 1/3 on some.
- Default boxes are fractions of the training size: a convolution sees pixels, so at another size they stay.
- A default box that lies half inside an ignored object, or overlaps one, is no negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgedet.contract import decode as decoders
from edgedet.contract.anchors import SSD_RATIOS, count, make_anchors, ssd_shapes
from edgedet.contract.boxes import encode_deltas
from edgedet.contract.errors import TrainingError, UnknownName
from edgedet.contract.spec import Decode, Output
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.base import Model
from edgedet.models.detection_loss import ssd_loss
from edgedet.models.layers import conv_norm_act, separable
from edgedet.models.matching import BACKGROUND, match
from edgedet.models.necks import Fpn

VARIANCES = (0.1, 0.1, 0.2, 0.2)
OVERLAP = 0.5
"""IoU from which a default box answers for an object (section 2.2)."""

NEGATIVES = 3.0
"""Hardest negatives for each positive (section 2.2)."""

BACKBONE_STRIDES = {"none": (16, 32), "fpn": (8, 16, 32)}
FURTHER_STRIDES = (64, 128, 256)
SMALLEST = {"none": 0.15, "fpn": 0.1}
"""s_min by neck, a fraction of the image's side."""


class Ssd(Model):
    """Backbone, neck or none, further levels, and a head for each level.

    Args:
        classes: K.
        neck: "none", the paper's way, or "fpn".
        size: (height, width) the network is trained at; the default boxes are its fractions.
        width: channels of the further levels, the pyramid and the heads.
        smallest, largest: s_min and s_max; None: by neck.
        pretrained: start from ImageNet weights.

    Raises:
        UnknownName: another neck.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        neck: str = "none",
        size: Sequence[int] = (320, 320),
        width: int = 96,
        smallest: float | None = None,
        largest: float = 0.9,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        if neck not in BACKBONE_STRIDES:
            raise UnknownName("neck", neck, BACKBONE_STRIDES)
        self.classes = classes
        self.size = (size[0], size[1])
        own = BACKBONE_STRIDES[neck]
        self.strides = (*own, *FURTHER_STRIDES)
        self.shapes = ssd_shapes(
            len(self.strides),
            size,
            smallest=SMALLEST[neck] if smallest is None else smallest,
            largest=largest,
        )
        self.backbone = Backbone(
            own, pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        channels = list(self.backbone.channels)
        self.neck = Fpn(channels, width) if neck == "fpn" else None
        if neck == "fpn":
            channels = [width] * len(own)
        self.further = nn.ModuleList()
        for _ in FURTHER_STRIDES:
            self.further.append(_halve(channels[-1], width))
            channels.append(width)
        self.heads = nn.ModuleList(_Head(c, width, len(SSD_RATIOS) + 1, classes) for c in channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised, sides multiples of 32 -> class_logits (N, A, K + 1), deltas (N, A, 4)."""
        levels = self.backbone(images)
        if self.neck is not None:
            levels = self.neck(levels)
        for further in self.further:
            levels.append(further(levels[-1]))
        logits, deltas = zip(*(head(x) for head, x in zip(self.heads, levels, strict=True)), strict=True)
        return {"class_logits": torch.cat(logits, dim=1), "deltas": torch.cat(deltas, dim=1)}

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The loss of the heads; it must know the size that they belong to.

        Raises:
            TrainingError: a single image whose last level is a single position, of which a batch norm learns
                nothing.
        """
        if len(images) == 1 and max(images.shape[2:]) <= self.strides[-1]:
            height, width = images.shape[2:]
            raise TrainingError(
                f"SSD cannot learn from one image a process at {height}x{width}: "
                "its last level has a single position.",
                hint="Use a larger --batch or --size.",
            )
        heads = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.loss(heads, targets, (images.shape[2], images.shape[3]))

    def loss(
        self,
        heads: Mapping[str, Tensor],
        targets: Sequence[Targets],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """{"class", "box"}: `detection_loss.ssd_loss`, hard negatives 3:1.

        Args:
            size: (height, width) of the input that the heads belong to; None: the training size.
        """
        logits, deltas = heads["class_logits"], heads["deltas"]
        anchors = torch.from_numpy(self.anchors(size or self.size)).to(deltas.device)
        labels = torch.full(logits.shape[:2], BACKGROUND, dtype=torch.int64, device=deltas.device)
        wanted = []
        for i, target in enumerate(targets):
            boxes = target.boxes.to(anchors)
            found = match(anchors, boxes, target.ignore, high=OVERLAP, low=OVERLAP, best_for_each=True)
            positive = found >= 0
            # 0 is background, -1 ignored
            labels[i] = found + 1
            labels[i, positive] = target.labels.to(found.device)[found[positive]] + 1
            wanted.append(encode_deltas(boxes[found[positive]], anchors[positive], VARIANCES))
        return ssd_loss(logits, deltas, labels, torch.cat(wanted), ratio=NEGATIVES)

    def anchors(self, size: tuple[int, int]) -> Any:
        """The default boxes of an input of `size` (height, width): (A, 4) xyxy in its pixels, numpy."""
        return make_anchors(size, self.strides, self.shapes)

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Heads -> boxes (N, A, 4) in network pixels, scores (N, A, K): `edgedet.contract.decode.anchors`."""
        boxes, scores = decoders.anchors(heads, size, **self.decode_spec().parameters)
        return {"boxes": boxes, "scores": scores}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """Class logits and deltas, a row for each default box."""
        a = count(size, self.strides, self.shapes)
        return (
            Output("class_logits", "class_logits", (None, a, self.classes + 1)),
            Output("deltas", "deltas", (None, a, 4)),
        )

    def decode_spec(self) -> Decode:
        """`edgedet.contract.decode.anchors` with what the default boxes are made from."""
        parameters = {
            "strides": list(self.strides),
            "shapes": self.shapes,
            "variances": list(VARIANCES),
        }
        return Decode("anchors", parameters)


def _halve(inputs: int, width: int) -> nn.Sequential:
    """A level of twice the stride."""
    return nn.Sequential(
        conv_norm_act(inputs, width, 1),
        conv_norm_act(width, width, 3, stride=2, groups=width),
        conv_norm_act(width, width, 1),
    )


class _Head(nn.Module):
    """The predictions of one level, in the order of its default boxes.

    It starts as a network that takes three of four default boxes for background, the share of the negatives
    that are trained on, and moves none: the first steps are calm.
    """

    def __init__(self, inputs: int, width: int, shapes: int, classes: int) -> None:
        super().__init__()
        self.tower = separable(inputs, width, 5)
        self.logits = nn.Conv2d(width, shapes * (classes + 1), 1)
        self.deltas = nn.Conv2d(width, shapes * 4, 1)
        for last in (self.logits, self.deltas):
            assert last.bias is not None
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        with torch.no_grad():
            assert self.logits.bias is not None
            self.logits.bias[:: classes + 1] = math.log(NEGATIVES * classes)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> class logits (N, h w k, K + 1) and deltas (N, h w k, 4)."""
        seen = self.tower(level)
        k = self.deltas.out_channels // 4
        return _rows(self.logits(seen), k), _rows(self.deltas(seen), k)


def _rows(maps: Tensor, k: int) -> Tensor:
    """(N, k C, h, w) -> (N, h w k, C): positions row by row, default boxes innermost."""
    n, channels, rows, columns = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(n, rows * columns * k, channels // k)
