"""What torch raises as a RuntimeError with a text, as the named error it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from edgedet.contract.errors import TrainingError

_AGAIN = "The same command goes on from the last state file."


@contextlib.contextmanager
def named(world: int) -> Iterator[None]:
    """Raise TrainingError for a loader that died or stalls, memory that ran out, a process that is gone.

    world: processes of the run. Other errors pass as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        error = name(e, world)
        if error is None:
            raise
        raise error from e


def name(error: Exception, world: int) -> TrainingError | None:
    """The named error for one of torch's, None for those that are not known."""
    text = " ".join(str(error).split())
    if text.startswith("DataLoader timed out"):
        return TrainingError(
            f"No batch came from the loader processes: {text}.",
            hint=f"Is the data on a disk or network that does not answer? {_AGAIN}",
        )
    if text.startswith("DataLoader worker (pid"):
        return TrainingError(
            f"A process that loads images died: {text.partition('. It is')[0].rstrip('.')}.",
            hint=f"If the system ended it for want of memory (dmesg says so): fewer --workers. {_AGAIN}",
        )
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if out_of_memory or "can't allocate memory" in text or "not enough memory" in text:
        return TrainingError(
            f"Memory ran out: {text[:200]}.", hint="Use a smaller --batch, --size or --window."
        )
    lost = isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    )
    if world > 1 and lost:
        return TrainingError(
            f"Another of the {world} processes of this run ended, or does not answer: {text[:200]}.",
            hint=f"See what it said. {_AGAIN}",
        )
    return None
