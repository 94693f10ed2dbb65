"""Fast R-CNN of the lecture: one network over the whole image, which then looks at regions that were proposed
by something else (Girshick 2015, arXiv:1504.08083).

Features are computed once an image. RoI max pooling, whose windows depend on the region, makes 7 x 7 of them
for each region, and two branches say what it shows (softmax over K + 1 classes) and how its box must change,
for each class. Both learn together: L = L_cls(p, u) + 1[u >= 1] L_box(t^u, v).

Where this departs from the paper, and why:

- Backbone EfficientNet-Lite0 instead of VGG16: made for edge devices and INT8. Its last stage works at stride
  16 (dilated), as VGG's last layer does, and a 1 x 1 convolution narrows it to `width` channels.
- 500 proposals of an image instead of about 2000: at 320 px Selective Search has about 740, and the best 500
  find as many objects but for a few (`edgedet.evaluation.proposal_recall`).
- A sample of 64 regions an image from all that overlap no object by half, not only from those that do by a
  tenth: what is far from objects is background too, and nothing else would say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgedet.contract.boxes import area, clip
from edgedet.contract.spec import Output, Proposals
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.layers import conv_norm_act
from edgedet.models.region_heads import (
    BoxHead,
    RegionDetector,
    proposals_of,
    region_outputs,
    sample_regions,
)
from edgedet.models.regions import roi_max_pool

STRIDE = 16
"""Pixels of a cell of the features."""


class FastRcnn(RegionDetector):
    """Backbone, RoI max pooling, box head. See the module's docstring.

    Args:
        classes: K.
        width: channels of the features.
        hidden: of the box head's two layers.
        proposals: P, regions of an image that the network takes.
        sampled: regions of an image that it is trained on.
        pretrained: start from ImageNet weights.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        width: int = 128,
        hidden: int = 512,
        proposals: int = 500,
        sampled: int = 64,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.count = proposals
        self.sampled = sampled
        self.backbone = Backbone(
            (32,),
            pretrained=pretrained,
            frozen_norms=frozen_norms,
            frozen_stages=frozen_stages,
            output_stride=STRIDE,
        )
        self.project = conv_norm_act(self.backbone.channels[0], width, 1)
        self.box_head = BoxHead(width, classes, hidden=hidden)

    def forward(self, images: Tensor, proposals: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """(N, 3, H, W) normalised, sides multiples of 32, and (N, P, 4) xyxy in pixels -> those proposals cut
        to the image, objectness (N, P), 1 where a row holds one and 0 elsewhere, class_logits (N, P, K + 1),
        deltas (N, P, 4 K).
        """
        boxes = clip(proposals, images.shape[3], images.shape[2])
        logits, deltas = self.classify(self.features(images), boxes, operators=self.operators)
        there = (area(boxes) > 0).to(boxes.dtype)
        return {"proposals": boxes, "objectness": there, "class_logits": logits, "deltas": deltas}

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, width, H / 16, W / 16)."""
        found: Tensor = self.project(self.backbone(images)[0])
        return found

    def classify(self, features: Tensor, boxes: Tensor, *, operators: bool) -> tuple[Tensor, Tensor]:
        """Features (N, C, h, w), boxes (N, R, 4) in pixels -> logits (N, R, K + 1), deltas (N, R, 4 K)."""
        found: tuple[Tensor, Tensor] = self.box_head(
            roi_max_pool(features, boxes, 1 / STRIDE, operators=operators)
        )
        return found

    def proposals(self) -> Proposals:
        """Selective Search's best."""
        return Proposals("selective_search", self.count)

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """{"class", "box"} of regions that are sampled from `Targets.proposals` with the truth at hand."""
        boxes = clip(proposals_of(targets, images), images.shape[3], images.shape[2])
        regions = sample_regions(boxes, targets, sampled=self.sampled)
        logits, deltas = self.classify(self.features(images), regions.boxes, operators=True)
        with torch.autocast(images.device.type, enabled=False):
            return regions.loss(logits.float(), deltas.float())

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """A row for each proposal."""
        return region_outputs(self.count, self.classes)
