"""What the lecture's semantic segmentation networks have in common: class logits in, a class map out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgedet.contract import decode as decoders
from edgedet.contract.spec import Decode, Output
from edgedet.contract.targets import Targets
from edgedet.models.base import Model
from edgedet.models.segmentation_loss import parse_loss


class Segmenter(Model):
    """A model whose one head is "class_logits" (N, K, H / logit_stride, W / logit_stride).

    Args:
        classes: K, at least 2.
        loss: by name, as `edgedet.models.segmentation_loss.parse_loss` reads it: "cross-entropy",
            "dice+focal", ...
    """

    logit_stride: int

    def __init__(self, classes: int, *, loss: str = "cross-entropy") -> None:
        super().__init__()
        self.classes = classes
        self.criterion = parse_loss(loss)

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The terms of the chosen loss; logits are brought to the truth's size, void pixels left out."""
        logits = heads["class_logits"]
        maps = [t.class_map for t in targets]
        if any(m is None for m in maps):
            raise TypeError("a segmentation model is trained on targets with a class map")
        truth = torch.stack([m for m in maps if m is not None]).to(logits.device)  # (N, H, W)
        terms: dict[str, Tensor] = self.criterion(logits, truth)
        return terms

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """{"class_map": (N, H, W) uint8} at `size`: `edgedet.contract.decode.class_map`."""
        found: Tensor = decoders.class_map({"class_logits": heads["class_logits"].float()}, size)
        return {"class_map": found.to(torch.uint8)}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """The logits."""
        shape = (None, self.classes, size[0] // self.logit_stride, size[1] // self.logit_stride)
        return (Output("class_logits", "class_logits", shape),)

    def decode_spec(self) -> Decode:
        """`edgedet.contract.decode.class_map`."""
        return Decode("class_map")


def widen(coarse: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of another feature map. Half-pixel centres."""
    return nn.functional.interpolate(coarse, size=like.shape[-2:], mode="bilinear", align_corners=False)
