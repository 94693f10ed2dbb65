"""What follows the epochs of a model that gradients do not finish: named by the registry (`Entry.finish`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from edgedet.models import entry
from edgedet.training.state import load_into

if TYPE_CHECKING:
    from edgedet.training.loop import Trainer


class After(Protocol):
    """The stages after the last epoch. All of it may be killed at any time and run again.

    Made with the trainer before the first step; it reads `Trainer.average`, and changes it.
    """

    def describe(self) -> list[tuple[str, str]]:
        """(what, how it is): what is said before the first step."""

    def file_bytes(self) -> int:
        """What the run folder needs on disk for it, beside what is there."""

    def shared(self, rank: int, world: int) -> Iterator[dict[str, Any]]:
        """Do all of the first stage that is not done yet; each process does its part. Yields as `run`.

        The processes wait for each other after each step.
        """

    def run(self) -> Iterator[dict[str, Any]]:
        """Do all the rest that is not done yet; on the main process alone.

        Yields {"stage": its name, "done": of, "total": steps, "problems": data that was left out}, at least
        once a minute: the run may end there.
        """

    def clean(self) -> None:
        """Remove what nobody needs once the result is saved."""


def after(trainer: Trainer) -> After | None:
    """What follows the epochs of a trainer's model; None for most."""
    module, _, name = entry(trainer.spec.model).finish.partition(":")
    if not module:
        return None
    made: After = getattr(importlib.import_module(module), name)(trainer)
    return made


def follow(trainer: Trainer, what: After) -> Iterator[dict[str, Any]]:
    """Do what follows the epochs of a trainer, whose state is saved; yields its events."""
    processes = trainer.processes
    if processes.world > 1:
        processes.barrier()
        if not processes.main:  # norms have seen other images in each process: the main one's count
            load_into(trainer.folder.state, trainer.model, trainer.average, trainer.optimizer, trainer.scaler)
    share = what.shared(processes.rank, processes.world)
    while True:
        event = next(share, None)
        trainer.agree()
        if not any(processes.greatest(float(event is not None))):
            break
        if event is not None:
            yield event
    if processes.main:
        for event in what.run():
            trainer.agree()
            yield event
        trainer.agree(done=True)
    else:
        while not trainer.agree():
            pass
