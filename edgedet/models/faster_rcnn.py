"""Faster R-CNN of the lecture: a network proposes regions, a second stage looks at each (Ren et al. 2016,
arXiv:1506.01497), with a feature pyramid (Lin et al. 2017, arXiv:1612.03144) or without.

The Region Proposal Network says of every anchor whether it holds an object and how to move it; the best are
proposals. Their features, 7 x 7 by RoIAlign, pass the box head: K + 1 class logits and a box for each class.

Where this departs from the papers, and why:

- Backbone EfficientNet-Lite0 instead of VGG16 or ResNet: made for edge devices and INT8. Without the pyramid
  its last stage works at stride 16 (dilated), as VGG's last layer does; k = 9 anchors of each position.
- 128 proposals of an image instead of 300: at 320 px more find nothing new, and the second stage costs as
  much as there are proposals.
- RoIAlign instead of RoI max pooling (He et al. 2017): nothing is rounded.
- Batch norms in the pyramid: without them the scale of its levels ran away (`necks.Fpn`).
- Joint training is the default (Ren et al. 2016, 3.2 "approximate joint training"): gradients do not pass
  through the coordinates of proposals. The paper's 4 steps are `edgedet.training.alternating`.
- Anchors across the image's border are trained on, as in FPN: at 320 px large objects have no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgedet.contract import anchors as making
from edgedet.contract.spec import Output
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.layers import conv_norm_act
from edgedet.models.necks import Fpn
from edgedet.models.region_heads import (
    BoxHead,
    RegionDetector,
    Regions,
    RpnHead,
    region_outputs,
    rpn_training_loss,
    sample_regions,
)
from edgedet.models.regions import Proposing, candidates, propose, pyramid_align, rounds_needed

NECKS = ("fpn", "none")
PYRAMID = (8, 16, 32)
CANONICAL = 112.0
"""Side in pixels of regions that are looked at on the second level: 224 of ImageNet's in the paper, whose
images are twice as large."""


class FasterRcnn(RegionDetector):
    """Backbone, neck, RPN, RoIAlign, box head. See the module's docstring.

    Args:
        classes: K.
        neck: "fpn", or "none" for one level of stride 16.
        width: channels of the features.
        hidden: of the box head's two layers.
        proposals: P, rows of an image.
        sampled: regions of an image that the second stage is trained on.
        pretrained: start from ImageNet weights.

    Raises:
        ValueError: another neck.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        neck: str = "fpn",
        width: int = 128,
        hidden: int = 512,
        proposals: int = 128,
        sampled: int = 64,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        if neck not in NECKS:
            raise ValueError(f"neck is {neck!r}, expected {' or '.join(map(repr, NECKS))}")
        self.classes = classes
        self.sampled = sampled
        fpn = neck == "fpn"
        self.proposing = Proposing(count=proposals, per_level=200 if fpn else 600)
        self.backbone = Backbone(
            PYRAMID if fpn else (32,),
            pretrained=pretrained,
            frozen_norms=frozen_norms,
            frozen_stages=frozen_stages,
            output_stride=32 if fpn else 16,
        )
        channels = self.backbone.channels
        self.neck = Fpn(channels, width, extra=1, norm=True) if fpn else _Single(channels[0], width)
        self.strides = (*PYRAMID, 64) if fpn else (16,)
        """Of the RPN's levels."""
        self.seen = min(len(PYRAMID), len(self.strides))
        """How many of them regions are looked at on: all but the pyramid's extra one."""
        self.shapes = (
            [making.shapes([s]) for s in (32.0, 64.0, 128.0, 256.0)]
            if fpn
            else [making.shapes((64.0, 128.0, 256.0))]
        )
        self.rpn = RpnHead(width, len(self.shapes[0]))
        self.box_head = BoxHead(width, classes, hidden=hidden)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised, sides multiples of 32 -> proposals (N, P, 4) in pixels, objectness (N, P),
        class_logits (N, P, K + 1), deltas (N, P, 4 K). Rows without a proposal have objectness 0.
        """
        return self.heads(self.features(images), (images.shape[2], images.shape[3]))

    def features(self, images: Tensor) -> list[Tensor]:
        """What both stages share: (N, 3, H, W) -> the levels of the neck, (N, width, H / s, W / s) each."""
        found: list[Tensor] = self.neck(self.backbone(images))
        return found

    def heads(self, levels: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Both stages on the levels of the neck, for an input of `size` (height, width): see `forward`."""
        boxes, objectness = self.propose(self.rpn(levels), size, operators=self.operators)
        return self.second_stage(levels, boxes, objectness)

    def second_stage(self, levels: list[Tensor], boxes: Tensor, objectness: Tensor) -> dict[str, Tensor]:
        """What `propose` gave, looked at on the levels of the neck -> what `forward` gives."""
        logits, deltas = self.box_head(self.pool(levels, boxes, operators=self.operators))
        return {"proposals": boxes, "objectness": objectness, "class_logits": logits, "deltas": deltas}

    def propose(
        self, found: tuple[list[Tensor], list[Tensor]], size: tuple[int, int], *, operators: bool
    ) -> tuple[Tensor, Tensor]:
        """The RPN's logits and deltas, level by level -> boxes (N, P, 4) in pixels, objectness (N, P)."""
        logits, deltas = found
        per_level = torch.split(self.anchors(size, logits[0]), [x.shape[1] for x in logits])
        return propose(logits, deltas, per_level, size, self.proposing, operators=operators)

    @property
    def rounds(self) -> int:
        """See Model."""
        return self.proposing.rounds

    @rounds.setter
    def rounds(self, rounds: int) -> None:
        self.proposing = replace(self.proposing, rounds=rounds)

    def rounds_needed(self, images: Tensor) -> int:
        """See Model."""
        size = (images.shape[2], images.shape[3])
        logits, deltas = self.rpn(self.neck(self.backbone(images)))
        per_level = torch.split(self.anchors(size, logits[0]), [x.shape[1] for x in logits])
        boxes, _, present = candidates(logits, deltas, per_level, size, self.proposing)
        return rounds_needed(boxes, present, self.proposing.iou)

    def pool(self, levels: list[Tensor], boxes: Tensor, *, operators: bool) -> Tensor:
        """Features (N, P, C, 7, 7) of boxes (N, P, 4)."""
        seen = levels[: self.seen]
        strides = self.strides[: self.seen]
        return pyramid_align(seen, strides, boxes, canonical=CANONICAL, operators=operators)

    def anchors(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """(A, 4) xyxy in pixels of an input of `size` (height, width), on the device of `like`."""
        return torch.from_numpy(making.make_anchors(size, self.strides, self.shapes)).to(like.device)

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Both stages at once: the second sees proposals sampled with the truth at hand.

        {"rpn_class", "rpn_box", "class", "box"}.
        """
        size = (images.shape[2], images.shape[3])
        levels = self.features(images)
        found = self.rpn(levels)
        second = self.region_losses(levels, self.proposed(found, size), targets)
        return self.rpn_losses(found, size, targets) | second

    @torch.no_grad()
    def proposed(self, found: tuple[list[Tensor], list[Tensor]], size: tuple[int, int]) -> Tensor:
        """As `propose`, for training: the boxes (N, P, 4) alone, without gradients, in float32."""
        logits, deltas = found
        with torch.autocast(logits[0].device.type, enabled=False):
            exact = [x.float() for x in logits], [x.float() for x in deltas]
            return self.propose(exact, size, operators=True)[0]

    def rpn_losses(
        self, found: tuple[list[Tensor], list[Tensor]], size: tuple[int, int], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """{"rpn_class", "rpn_box"} of the RPN's logits and deltas, level by level."""
        with torch.autocast(found[0][0].device.type, enabled=False):
            logits, deltas = (torch.cat(x, dim=1).float() for x in found)
            return rpn_training_loss(logits, deltas, self.anchors(size, logits), targets)

    def region_losses(
        self, levels: list[Tensor], proposals: Tensor, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """{"class", "box"}, and those of further heads, on a sample of proposals (N, P, 4)."""
        regions = sample_regions(proposals, targets, sampled=self.sampled)
        logits, deltas = self.box_head(self.pool(levels, regions.boxes, operators=False))
        with torch.autocast(logits.device.type, enabled=False):
            losses = regions.loss(logits.float(), deltas.float())
        return losses | self.more_losses(levels, regions, targets)

    def more_losses(
        self, levels: Sequence[Tensor], regions: Regions, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Of further heads on the sampled regions; there are none here."""
        return {}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """A row for each proposal."""
        return region_outputs(self.proposing.count, self.classes)


class _Single(nn.Module):
    """The neck of one level: to the common width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.project = conv_norm_act(inputs, width, 1)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.project(level) for level in levels]
