"""FCN of the lecture: a classifier made convolutional, its coarse scores refined by earlier stages.

Long, Shelhamer & Darrell 2015, arXiv:1411.4038. "32s" upsamples the scores of stride 32 alone; "16s" adds
the scores of stride 16 to them before upsampling; "8s" those of stride 8 as well (section 4.2, figure 3).

Departures from the paper:

- Backbone EfficientNet-Lite0 instead of VGG16; in place of fc6 and fc7 (7 x 7 and 1 x 1, 4096 wide) one
  3 x 3 convolution, 256 wide.
- Convolutions are padded as usual; the paper pads its input by 100 and crops.
- The last upsampling, by 8, 16 or 32, is bilinear and fixed, as in the paper, but belongs to the decoder
  and not to the head, so that the network hands over the small logits: the numbers are the same.
- All variants are trained at once, not 32s first (section 4.2 found no difference but time).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedet.contract.errors import UnknownName
from edgedet.models.backbones import Backbone
from edgedet.models.layers import conv_norm_act
from edgedet.models.segmenter import Segmenter
from edgedet.models.upsampling import upsampler

VARIANTS = {"32s": (32,), "16s": (16, 32), "8s": (8, 16, 32)}


class Fcn(Segmenter):
    """See the module's docstring.

    Args:
        classes: K.
        variant: "32s", "16s" or "8s".
        upsampling: between the stages, by name (`edgedet.models.upsampling`); the paper's is a transposed
            convolution that starts as bilinear interpolation and learns.
        width: channels of the layer that stands for fc6 and fc7.
        loss: see `Segmenter`.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        variant: str = "8s",
        upsampling: str = "transposed-convolution",
        width: int = 256,
        loss: str = "cross-entropy",
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__(classes, loss=loss)
        if variant not in VARIANTS:
            raise UnknownName("FCN variant", variant, VARIANTS)
        strides = VARIANTS[variant]
        self.logit_stride = strides[0]
        self.backbone = Backbone(
            strides, pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        *skips, top = self.backbone.channels
        self.context = conv_norm_act(top, width, 3)
        self.score = nn.Conv2d(width, classes, 1)
        self.skips = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in skips)
        self.up = nn.ModuleList(upsampler(upsampling, classes, 2) for _ in skips)
        for layer in [self.score, *self.skips]:  # the paper starts its scores at zero (section 4.2)
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised -> {"class_logits": (N, K, H/s, W/s)}, s = 32, 16 or 8."""
        *skips, top = self.backbone(images)
        scores: Tensor = self.score(self.context(top))
        for features, skip, up in zip(reversed(skips), reversed(self.skips), self.up, strict=True):
            scores = torch.add(up(scores), skip(features))
        return {"class_logits": scores}
