"""One process or several: what `torchrun` set up, as one value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from edgedet.contract.errors import UsageError
from edgedet.training.failures import named

ANSWER_WITHIN = timedelta(minutes=5)
"""A process that does not answer the others for so long is taken for lost; loading stalls earlier."""


@dataclass(frozen=True)
class Processes:
    """rank of world; `main` is the one that writes files."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def broadcast(self, value: float | None) -> float | None:
        """The main process's value, in every process; None travels as NaN."""
        if self.world == 1:
            return value
        number = math.nan if value is None else value
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        found = float(tensor.item())
        return None if math.isnan(found) else found

    def greatest(self, *values: float) -> list[float]:
        """The greatest of each value over all processes."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(v) for v in tensor.tolist()]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """The process group that torchrun describes in the environment (gloo on CPUs, NCCL on GPUs), or one.

    Raises:
        UsageError: a GPU was asked for that is not there. TrainingError: the others cannot be reached, or
            one of them ends or stops answering.
    """
    world, rank, local = (_of_torchrun(n, d) for n, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UsageError("--device cuda, but torch finds no CUDA GPU here.", hint="See edgedet doctor.")
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(
            f"Process {local} has no GPU: there are {torch.cuda.device_count()}.",
            hint="Start one process per GPU (torchrun --nproc-per-node).",
        )
    place = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(rank, world, place)
        return
    with named(world):
        try:
            dist.init_process_group(
                "nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=ANSWER_WITHIN
            )
        except ValueError as e:  # MASTER_ADDR is missing
            raise UsageError(f"WORLD_SIZE is {world}, but {e}.", hint="Start it by torchrun.") from e
        yield Processes(rank, world, place)
        dist.destroy_process_group()  # not after an error: a process that is gone says no goodbye


def _of_torchrun(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name} is {text!r}, expected a number.", hint="torchrun sets it; else unset it.")
    return int(text)
