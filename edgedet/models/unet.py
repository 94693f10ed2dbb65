"""U-Net of the lecture: the encoder's activations are concatenated with the upsampled decoder's.

Ronneberger, Fischer & Brox 2015, arXiv:1505.04597. `encoder="plain"` is the paper's network: four times
(two 3 x 3 convolutions, 2 x 2 max pooling), two more convolutions, four times (upsample, concatenate, two
convolutions), 1 x 1. `encoder="lite0"` puts the same decoder on EfficientNet-Lite0's stages.

Departures from the paper: convolutions are padded, so that the map has the input's size (the paper's
loses 92 pixels at each side and tiles its input); batch norm, which came out the same year, in place of its
careful initialisation; the plain network's first width is an option (64 in the paper: 31 M parameters).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgedet.contract.errors import UnknownName
from edgedet.models.backbones import Backbone
from edgedet.models.layers import conv_norm_act
from edgedet.models.segmenter import Segmenter
from edgedet.models.upsampling import MaxPooling, upsampler

ENCODERS = ("lite0", "plain")


class UNet(Segmenter):
    """See the module's docstring.

    Args:
        classes: K.
        encoder: "lite0" or "plain".
        width: channels of the plain encoder's first level, doubled at each of the four below it; of the
            lite0 decoder's finest level.
        upsampling: in the decoder, by name (`edgedet.models.upsampling`). "max-unpooling" needs what
            max poolings remember, and only the plain encoder has some.
        loss: see `Segmenter`.
    """

    def __init__(
        self,
        classes: int,
        *,
        encoder: str = "lite0",
        width: int = 32,
        upsampling: str = "transposed-convolution",
        loss: str = "cross-entropy",
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 1,
    ) -> None:
        super().__init__(classes, loss=loss)
        self.plain = encoder == "plain"
        if self.plain:
            self.stride, self.logit_stride = 16, 1
            self.encoder = PlainEncoder(width, remember=upsampling == "max-unpooling")
            channels = tuple(width << i for i in range(5))
            widths = channels[:-1]
        elif encoder == "lite0":
            self.stride, self.logit_stride = 32, 2
            self.backbone = Backbone(
                (2, 4, 8, 16, 32),
                pretrained=pretrained,
                frozen_norms=frozen_norms,
                frozen_stages=frozen_stages,
            )
            channels = self.backbone.channels
            widths = tuple(width * m for m in (1, 1, 2, 4))
        else:
            raise UnknownName("encoder", encoder, ENCODERS)
        self.decoder = Decoder(channels, widths, upsampling, remembered=self.plain)
        self.score = nn.Conv2d(widths[0], classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised -> {"class_logits": (N, K, H/s, W/s)}, s = 1 (plain) or 2 (lite0)."""
        features: Sequence[Tensor]
        remembered: Sequence[Tensor | None] = [None] * 4
        if self.plain:
            features, remembered = self.encoder(images)
        else:
            features = self.backbone(images)
        return {"class_logits": self.score(self.decoder(features, remembered))}


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with norm and activation."""
    return nn.Sequential(conv_norm_act(inputs, outputs, 3), conv_norm_act(outputs, outputs, 3))


class PlainEncoder(nn.Module):
    """The contracting path of 2015: five levels, 2 x 2 max pooling between them."""

    def __init__(self, width: int, *, remember: bool) -> None:
        super().__init__()
        widths = [width << i for i in range(5)]
        self.levels = nn.ModuleList(twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.pool = MaxPooling(2) if remember else None

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """(N, 3, H, W) -> features at strides 1, 2, 4, 8, 16; where the poolings found their maxima."""
        features: list[Tensor] = []
        remembered: list[Tensor | None] = []
        x = images
        for i, level in enumerate(self.levels):
            if i:
                x, where = self.pool(x) if self.pool else (nn.functional.max_pool2d(x, 2), None)
                remembered.append(where)
            x = level(x)
            features.append(x)
        return features, remembered


class Decoder(nn.Module):
    """The expanding path: per level upsample, concatenate the encoder's features, two convolutions.

    Args:
        channels: of the encoder's features, finest first. widths: of the results, finest first; one less.
        upsampling: by name. remembered: whether `forward` will be given what max poolings remembered.
    """

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], upsampling: str, *, remembered: bool
    ) -> None:
        super().__init__()
        below = [*widths[1:], channels[-1]]  # channels that come from the level below
        # the paper halves them on the way up; what was pooled at a level has the channels of that level
        halved = [channels[i] if remembered else w for i, w in enumerate(widths)]
        self.narrow = nn.ModuleList(nn.Conv2d(b, h, 1) for b, h in zip(below, halved, strict=True))
        self.up = nn.ModuleList(upsampler(upsampling, h, 2, remembered=remembered) for h in halved)
        self.join = nn.ModuleList(twice(h + c, w) for h, c, w in zip(halved, channels, widths, strict=False))

    def forward(self, features: Sequence[Tensor], remembered: Sequence[Tensor | None]) -> Tensor:
        """Features and what the pooling below each remembered, finest first -> (N, widths[0], H, W)."""
        x = features[-1]
        for i in reversed(range(len(self.up))):
            x = self.up[i](self.narrow[i](x), remembered[i])
            x = self.join[i](torch.cat([features[i], x], dim=1))
        return x
