"""What stands between a backbone and the heads: the feature pyramid (Lin et al. 2017, arXiv:1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Fpn(nn.Module):
    """Top-down pathway with lateral connections: every level gets the meaning of those above it.

    Each level passes a 1x1 convolution to a common width; from the coarsest down, the level above is doubled
    in size (nearest neighbour) and added; a 3x3 convolution then smooths each. No activations in between
    (section 3). Lecture, "FPN".

    Args:
        channels: of the levels, finest first, each of twice the stride of the one before.
        width: channels of every output, 256 in the paper.
        extra: further levels above, each every second pixel of the one below ("P6", section 4.1).
        norm: a batch norm behind each convolution. The paper has none; heads with a bounded activation and no
            norm of their own need it, as nothing else bounds the scale of what they see: it grew 50-fold in
            8 epochs, until every unit of Faster R-CNN's box head was saturated.
    """

    def __init__(self, channels: Sequence[int], width: int, *, extra: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.width = width
        self.extra = extra
        self.lateral = nn.ModuleList(_convolution(c, width, 1, norm) for c in channels)
        self.smooth = nn.ModuleList(_convolution(width, width, 3, norm) for _ in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_i, H / stride_i, W / stride_i), finest first -> those and `extra` more, of `width` channels.

        Sizes must halve exactly from each level to the next.
        """
        merged: list[Tensor] = []
        for level, lateral in zip(reversed(levels), reversed(self.lateral), strict=True):
            own = lateral(level)
            if merged:
                own = own + nn.functional.interpolate(merged[-1], scale_factor=2.0, mode="nearest")
            merged.append(own)
        out = [smooth(m) for smooth, m in zip(self.smooth, reversed(merged), strict=True)]
        for _ in range(self.extra):
            out.append(nn.functional.max_pool2d(out[-1], 1, 2))
        return out


def _convolution(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Module:
    made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(made.weight, a=1)
    if norm:
        return nn.Sequential(made, nn.BatchNorm2d(outputs))
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made
