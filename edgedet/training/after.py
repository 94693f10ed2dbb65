"""What follows the epochs of a model that gradients do not finish: named by the registry (`Entry.finish`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from edgedet.models import entry

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

    def run(self) -> Iterator[dict[str, Any]]:
        """Do all that is not done yet; on the main process alone.

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
