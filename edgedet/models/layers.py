"""The few blocks that several heads and decoders are made of."""

from __future__ import annotations

from torch import nn


def conv_norm_act(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6: the backbone's own vocabulary. The size stays, but for the stride."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


def separable(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise, then pointwise convolution, each with norm and activation (Chollet 2017)."""
    return nn.Sequential(
        conv_norm_act(inputs, inputs, kernel, groups=inputs, dilation=dilation),
        conv_norm_act(inputs, outputs, 1),
    )
