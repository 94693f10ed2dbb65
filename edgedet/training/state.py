"""All that a run needs to go on, in one safetensors file, so that it is whole or not there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from edgedet.contract.errors import TrainingError, WeightsError
from edgedet.contract.tensor_file import read_tensor_file
from edgedet.contract.text import parse_json
from edgedet.training.checkpoint import load_state, read, write_tensors


@dataclass
class Progress:
    """Where a run stands. `batch` batches of epoch `epoch` are done, `step` optimiser steps in all.

    best: the highest score of a validation, of epoch `best_epoch`; None while nothing was measured.
    skipped: steps that changed nothing, as their gradient was not finite.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    finished: bool = False
    skipped: int = 0


def save_state(
    path: Path,
    progress: Progress,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write model, averaged model, optimiser moments and progress, atomically.

    Raises:
        TrainingError: a value is not finite; OutputError: it cannot be written. The file stays as it was.
    """
    check_finite(model, "state.safetensors")
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    # float tensors of a channels_last model are not contiguous in the order safetensors stores
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "scaler": json.dumps(scaler.state_dict())}
    write_tensors(path, whole, metadata)


def check_finite(model: nn.Module, file: str) -> None:
    """TrainingError if a weight or a statistic of the model is not a finite number."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} is no longer finite: {file} is left as it was.",
                hint="Lower --lr, or run with --amp off.",
            )


def load_into(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress:
    """The inverse of `save_state`; WeightsError if the file is not whole or of another model or run."""
    tensors, metadata = read(path)
    load_state(model, _under(tensors, "model."), path)
    load_state(average, _under(tensors, "average."), path)
    with _of_a_state(path):
        progress = _progress(parse_json(metadata["progress"]))
        optimizer.load_state_dict(
            {
                "state": _slots(_under(tensors, "optimizer."), optimizer),
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
        if scaler.is_enabled():
            scaler.load_state_dict(json.loads(metadata["scaler"]))
    return progress


def progress_of(path: Path) -> Progress:
    """Where the run of a state file stands; WeightsError if the file is not whole or no state."""
    metadata = read_tensor_file(path).metadata
    with _of_a_state(path):
        return _progress(parse_json(metadata["progress"]))


@contextlib.contextmanager
def _of_a_state(path: Path) -> Iterator[None]:
    """WeightsError for whatever a file that is no state makes go wrong."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as e:
        raise WeightsError(
            f"{path} is not a state to go on from: {type(e).__name__}: {e}.",
            hint="Start over in another folder with -o (--weights takes the best.safetensors of this one).",
        ) from e


def _progress(fields: dict[str, Any]) -> Progress:
    """ValueError or TypeError unless these are the fields of a run that can be."""
    if fields.get("best") == -1.0:  # how earlier versions said "none"
        fields = fields | {"best": None, "best_epoch": None}
    found = Progress(**fields)
    counts = (found.epoch, found.batch, found.step, found.skipped)
    if not all(type(n) is int and n >= 0 for n in counts) or type(found.finished) is not bool:
        raise ValueError(f"epoch, batch, step, skipped, finished are {(*counts, found.finished)}")
    if not isinstance(found.best, (float, int, NoneType)) or not isinstance(
        found.best_epoch, (int, NoneType)
    ):
        raise ValueError(f"best is {found.best!r} in epoch {found.best_epoch!r}")
    return found


def _slots(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """{parameter: {moment: tensor}}; ValueError unless each is as large as its parameter, or one number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if int(index) not in range(len(parameters)):
            raise ValueError(f"the optimiser has {len(parameters)} parameters, not {index}")
        expected = torch.Size() if name == "step" else parameters[int(index)].shape
        if value.shape != expected:
            raise ValueError(f"{key} is {tuple(value.shape)}, expected {tuple(expected)}")
        slots.setdefault(int(index), {})[name] = value
    if any(found.keys() != {"step", "exp_avg", "exp_avg_sq"} for found in slots.values()):
        raise ValueError("moments of the optimiser are missing")
    return slots


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
