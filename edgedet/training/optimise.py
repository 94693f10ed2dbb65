"""What one optimiser step is made of: input, loss, learning rates, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgedet.contract.spec import ModelSpec
from edgedet.contract.targets import Targets
from edgedet.models.base import Model
from edgedet.training.recipe import Recipe


class TrainingLoss(nn.Module):
    """`Model.training_loss` as a forward: what DistributedDataParallel wraps must be one."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Images (N, 3, H, W) normalised and their targets -> {term: scalar}."""
        return self.model.training_loss(images, targets)


class Normalise:
    """uint8 RGB (N, 3, H, W) on any device -> float network input, as `contract.preprocess` makes it."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.device = device
        self.mean = torch.tensor(spec.input.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(spec.input.std, device=device).view(1, 3, 1, 1) * 255

    def __call__(self, images: Tensor) -> Tensor:
        """See the class."""
        x = images.to(self.device, non_blocking=True).float()
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by (pretrained or fresh) x (decayed or not); biases and norms do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = recipe.backbone_lr if "backbone" in name.split(".") else 1.0
            decay = recipe.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [{"params": p, "share": share, "weight_decay": decay} for (share, decay), p in groups.items()]


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """The factor on the peak rate: linear warm-up, then a cosine from 1 to `final_lr`."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return warm * (recipe.final_lr + (1 - recipe.final_lr) * cosine)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of all floating point state; short-sighted in the first steps."""
    decay = min(decay, (step + 2) / (step + 11))
    theirs, ours = list(average.state_dict().values()), list(model.state_dict().values())
    floats = [(t, o) for t, o in zip(theirs, ours, strict=True) if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in floats], [o for _, o in floats], 1 - decay)
    for mine, other in zip(theirs, ours, strict=True):
        if not mine.is_floating_point():
            mine.copy_(other)


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """Mixed precision: "off", "bf16", "fp16", or "auto": bf16 (else fp16) on a GPU, off on a CPU."""
    if choice == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]
