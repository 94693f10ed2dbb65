"""DeepLab v3+ of the lecture (Chen et al. 2018, arXiv:1802.02611).

The encoder's last strides become dilations (output stride 16 or 8); atrous spatial pyramid pooling looks at
its features at several rates and as a whole (3.2 of the paper, and Chen et al. 2017, arXiv:1706.05587); a
small decoder joins low-level features of stride 4 and refines along the objects' boundaries (3.2, figure 2).

Departures: backbone EfficientNet-Lite0 instead of Xception; 128 channels instead of 256 in pyramid and
decoder; atrous convolutions are depthwise separable throughout, which the paper does for Xception; ReLU6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedet.contract.errors import UsageError
from edgedet.models.backbones import Backbone
from edgedet.models.layers import conv_norm_act, separable
from edgedet.models.segmenter import Segmenter, widen

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Atrous rates by output stride (Chen et al. 2017, 3.3)."""


class DeepLabV3Plus(Segmenter):
    """See the module's docstring.

    Args:
        classes: K.
        output_stride: 16 or 8 (finer and slower).
        width: channels of pyramid and decoder.
        low_level: channels the stride-4 features are reduced to (48 in the paper, table 1).
        loss: see `Segmenter`.
    """

    stride = 32
    logit_stride = 4

    def __init__(
        self,
        classes: int,
        *,
        output_stride: int = 16,
        width: int = 128,
        low_level: int = 48,
        loss: str = "cross-entropy",
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 1,
    ) -> None:
        super().__init__(classes, loss=loss)
        if output_stride not in RATES:
            raise UsageError(f"DeepLab v3+ has output stride 16 or 8, not {output_stride}.")
        self.backbone = Backbone(
            (4, 32),
            pretrained=pretrained,
            frozen_norms=frozen_norms,
            frozen_stages=frozen_stages,
            output_stride=output_stride,
        )
        low, high = self.backbone.channels
        self.pyramid = Pyramid(high, width, RATES[output_stride])
        self.low = conv_norm_act(low, low_level, 1)
        self.refine_boundaries = nn.Sequential(
            separable(width + low_level, width, 3), separable(width, width, 3), nn.Conv2d(width, classes, 1)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised -> {"class_logits": (N, K, H/4, W/4)}."""
        low, high = self.backbone(images)
        low = self.low(low)
        joined = torch.cat([widen(self.pyramid(high), low), low], dim=1)
        return {"class_logits": self.refine_boundaries(joined)}


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1 x 1, one 3 x 3 per rate, and the image as a whole; then 1 x 1."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.point = conv_norm_act(inputs, outputs, 1)
        self.atrous = nn.ModuleList(separable(inputs, outputs, 3, dilation=r) for r in rates)
        # no norm on the pooled branch: one value per image and channel gives no statistics
        self.pooled = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU6(inplace=True))
        self.project = conv_norm_act(outputs * (len(rates) + 2), outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, outputs, h, w)."""
        whole = self.pooled(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        branches = [self.point(features), *(a(features) for a in self.atrous), whole]
        projected: Tensor = self.project(torch.cat(branches, dim=1))
        return projected
