"""The lecture's five ways to make a feature map larger by a whole factor f, and the pooling that one needs.

    nearest, bilinear          interpolation
    bed-of-nails               the value in the top left corner of its f x f window, zeros elsewhere
    max-unpooling              the value where the maximum of its window was when it was pooled
                               (Zeiler & Fergus 2014, arXiv:1311.2901; Badrinarayanan 2015, arXiv:1511.00561)
    transposed-convolution     learned; it starts as bilinear interpolation (Long 2015, arXiv:1411.4038, 3.3)

All are called alike, `up(x, where)` with `where` from a `MaxPooling`; only max unpooling looks at it, so a
decoder needs no case for it. A network without such a pooling calls `up(x)`; `upsampler` refuses max
unpooling there.

All five become static ONNX of plain operators, so none has to be refused at export. Two of them have an
ONNX form that engines refuse (MaxPool with indices and MaxUnpool; scatters), or that wastes work (a
convolution with a kernel of zeros): here the window's f x f places are written as a one-hot axis beside
the channels, which DepthToSpace then moves into the picture.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from edgedet.contract.errors import UnknownName, UsageError


class Upsampling(nn.Module, abc.ABC):
    """(N, C, h, w) -> (N, C, f h, f w).

    Args:
        channels: C.
        factor: f, at least 2.

    Raises:
        UsageError: `factor` is less than 2.
    """

    remembers: ClassVar[bool] = False
    """Whether it needs `where`, the positions that a `MaxPooling` of the same factor remembered."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.channels = channels
        self.factor = checked_factor(factor)

    @abc.abstractmethod
    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Values (N, C, h, w), where (N, C, h, w) int32 as `MaxPooling` gives it -> (N, C, f h, f w)."""

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"{self.channels}, factor={self.factor}"


class Nearest(Upsampling):
    """Every value fills its window."""

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """See Upsampling; `where` is not looked at."""
        return F.interpolate(x, scale_factor=float(self.factor), mode="nearest")


class Bilinear(Upsampling):
    """Linear in both axes, values in the middle of their windows (half-pixel centres), constant beyond."""

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """See Upsampling; `where` is not looked at."""
        return F.interpolate(x, scale_factor=float(self.factor), mode="bilinear", align_corners=False)


class BedOfNails(Upsampling):
    """Every value in the top left corner of its window, zeros elsewhere."""

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """See Upsampling; `where` is not looked at."""
        empty = self.factor**2 - 1
        return _place(F.pad(x.unsqueeze(2), (0, 0, 0, 0, 0, empty)), self.factor)


class MaxUnpooling(Upsampling):
    """Every value where the maximum of its window was, zeros elsewhere.

    `x` and the pooled map must have the same channels: a decoder brings its features to the channels of
    the encoder's map before this.
    """

    remembers: ClassVar[bool] = True

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """See Upsampling. UsageError if `where` is absent or of another shape than x."""
        if where is None or where.shape[1:] != x.shape[1:]:
            got = "none" if where is None else f"those of {_shape(where)} values"
            raise UsageError(
                f"Max unpooling of {_shape(x)} values needs as many remembered positions, got {got}.",
                hint="Pass the second result of MaxPooling, and x with as many channels as were pooled.",
            )
        places = torch.arange(self.factor**2, dtype=where.dtype, device=x.device).view(1, 1, -1, 1, 1)
        here = where.unsqueeze(2) == places  # (N, C, f f, h, w): one-hot along the window's places
        return _place(torch.where(here, x.unsqueeze(2), 0.0), self.factor)


class TransposedConvolution(Upsampling):
    """A convolution with stride 1/f: kernel 2f - f % 2, no bias, as FCN has it.

    The weights (C, C, k, k) are all learned. They start as bilinear interpolation of every channel by
    itself: equal to `Bilinear` but for the f // 2 outermost rows and columns, where it sees zeros beyond
    the border and `Bilinear` goes on with the last value.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, factor)
        kernel = 2 * factor - factor % 2
        self.convolution = nn.ConvTranspose2d(
            channels, channels, kernel, stride=factor, padding=(kernel - factor) // 2, bias=False
        )
        with torch.no_grad():
            self.convolution.weight.zero_()
            diagonal = torch.arange(channels)
            self.convolution.weight[diagonal, diagonal] = bilinear_kernel(factor)

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """See Upsampling; `where` is not looked at."""
        y: Tensor = self.convolution(x)
        return y


class MaxPooling(nn.Module):
    """Max pooling over f x f windows that remembers where the maxima were.

    Args:
        factor: f, at least 2.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = checked_factor(factor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, f h, f w) -> the maxima (N, C, h, w), and where they are, (N, C, h, w) int32.

        A position is row * f + column in the window; of equal maxima the first counts, as in torch's own
        pooling. UsageError if a side is not a multiple of f.
        """
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise UsageError(
                f"Max pooling by {self.factor} cannot take {x.shape[2]}x{x.shape[3]} values:"
                f" both sides must be multiples of {self.factor}.",
            )
        return F.max_pool2d(x, self.factor), first_maximum(x.detach(), self.factor)

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"factor={self.factor}"


UPSAMPLINGS: dict[str, type[Upsampling]] = {
    "nearest": Nearest,
    "bilinear": Bilinear,
    "bed-of-nails": BedOfNails,
    "max-unpooling": MaxUnpooling,
    "transposed-convolution": TransposedConvolution,
}


def upsampler(name: str, channels: int, factor: int, *, remembered: bool = False) -> Upsampling:
    """An upsampling by name.

    Args:
        remembered: whether the network will pass what a `MaxPooling` of this factor remembered.

    Raises:
        UnknownName: suggests the close one.
        UsageError: it needs remembered positions and the network has none; or `factor` is less than 2.
    """
    if name not in UPSAMPLINGS:
        raise UnknownName("upsampling", name, UPSAMPLINGS)
    kind = UPSAMPLINGS[name]
    if kind.remembers and not remembered:
        others = ", ".join(n for n, k in UPSAMPLINGS.items() if not k.remembers)
        raise UsageError(
            f"{name!r} needs a network whose encoder pools by {factor} and remembers the maxima.",
            hint=f"Such is unet; elsewhere use one of: {others}.",
        )
    return kind(channels, factor)


def checked_factor(factor: int) -> int:
    """The factor; UsageError if it is less than 2."""
    if factor < 2:
        raise UsageError(f"A factor of {factor} is not one to resize by.", hint="Use 2 or more.")
    return factor


def bilinear_kernel(factor: int) -> Tensor:
    """(k, k), k = 2f - f % 2: what a transposed convolution of stride f interpolates with. Its sum is f^2."""
    kernel = 2 * factor - factor % 2
    line = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / factor
    return line[:, None] * line[None, :]


def first_maximum(x: Tensor, factor: int) -> Tensor:
    """(N, C, f h, f w) -> (N, C, h, w) int32: row * f + column of each window's first maximum.

    By comparisons, first along rows and then along columns. An arg max would do the same where every
    engine let the first of equals win; after a ReLU, whole windows are equal. Matching against the pooled
    values would fail in an engine that rounds the two differently.
    """
    best, other = x[..., 0::factor], x[..., 1::factor]  # (N, C, f h, w)
    column = (other > best).to(torch.int32)
    for j in range(2, factor):
        best = torch.maximum(best, other)
        other = x[..., j::factor]
        column = torch.where(other > best, j, column)
    best = torch.maximum(best, other)

    top, place = best[:, :, 0::factor], column[:, :, 0::factor]  # (N, C, h, w)
    for i in range(1, factor):
        row = best[:, :, i::factor]
        place = torch.where(row > top, column[:, :, i::factor] + i * factor, place)
        top = torch.maximum(top, row)
    return place


def _place(slots: Tensor, factor: int) -> Tensor:
    """(N, C, f f, h, w), row by row the values of each window -> (N, C, f h, f w)."""
    return F.pixel_shuffle(slots.flatten(1, 2), factor)


def _shape(x: Tensor) -> str:
    return "x".join(str(int(n)) for n in x.shape[1:])
