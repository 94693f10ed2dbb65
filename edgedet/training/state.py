"""All that a run needs to go on, in one safetensors file, so that it is whole or not there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgedet.contract.files import atomic_path
from edgedet.training.checkpoint import load_state, read


@dataclass
class Progress:
    """Where a run stands. `batch` batches of epoch `epoch` are done, `step` optimiser steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    finished: bool = False


def save_state(
    path: Path,
    progress: Progress,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write model, averaged model, optimiser moments and progress, atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    # float tensors of a channels_last model are not contiguous in the order safetensors stores
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "scaler": json.dumps(scaler.state_dict())}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata=metadata)


def load_into(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress:
    """The inverse of `save_state`; WeightsError if the file is not whole or of another model."""
    tensors, metadata = read(path)
    load_state(model, _under(tensors, "model."), path)
    load_state(average, _under(tensors, "average."), path)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler.is_enabled():
        scaler.load_state_dict(json.loads(metadata["scaler"]))
    return Progress(**json.loads(metadata["progress"]))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
