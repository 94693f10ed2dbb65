"""A training in several phases: each trains other parts of the network, by a loss of its own.

The loop takes them one after another in one run: epochs and steps are counted through, one state file says
where it stands, and with every phase optimiser, averaged weights, warm-up and learning rate begin anew, from
the averaged weights of the phase before. Most trainings are a single phase. What is computed behind the last
epoch, without gradients, is no phase (`training.after`).
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

from torch import nn

from edgedet.contract.errors import UsageError
from edgedet.models import MODELS, entry
from edgedet.models.base import Model
from edgedet.training.recipe import Recipe
from edgedet.training.tasks import Training


@dataclass(frozen=True)
class Planned:
    """A phase as the method's authors or we plan it: its name, epochs, and what is trained in words."""

    name: str
    epochs: int
    trains: str


class InPhases(Model):
    """What is trained in phases: the network that is wanted, and what else it takes to get there.

    Made of that network (`Entry.alternating`); its averaged weights are validated as those of any model.
    Parts that keep still in a phase are frozen (`Model.freeze`).
    """

    plan: ClassVar[tuple[Planned, ...]]

    @property
    @abc.abstractmethod
    def result(self) -> Model:
        """The network that is saved."""

    @abc.abstractmethod
    def begin(self, phase: int) -> None:
        """From now on phase number `phase`, from 0, is trained: its parameters take gradients, no others.

        Called before the phase's first step, and again when a run goes on, then before its state is loaded.
        """

    @abc.abstractmethod
    def task(self, phase: int, whole: Training) -> Training:
        """What a validation measures in a phase; whole: of the finished network."""


@dataclass(frozen=True)
class Phase:
    """Epochs of a run, from `first` to before `end`.

    name: empty where there is but one. task: what a validation measures. kept: the best weights of its
    validations are the run's.
    """

    name: str
    first: int
    end: int
    task: Training
    kept: bool = True

    @property
    def said(self) -> dict[str, str]:
        """What every event of it says of it: its name, if it has one."""
        return {"phase": self.name} if self.name else {}


def kind(name: str) -> type[InPhases]:
    """How a model is trained in phases; UsageError if it is not."""
    module, _, attribute = entry(name).alternating.partition(":")
    if not module:
        some = ", ".join(n for n, e in MODELS.items() if e.alternating)
        raise UsageError(
            f"{name} is trained all at once; it has no alternating training.",
            hint=f"Leave --schedule out; models that have one: {some}.",
        )
    found: type[InPhases] = getattr(importlib.import_module(module), attribute)
    return found


def alternating(name: str, recipe: Recipe, epochs: int | None = None) -> Recipe:
    """A model's recipe for its training in phases, of as many epochs as planned, or of `epochs` in all.

    Raises:
        UsageError: the model has none; or fewer epochs than phases.
    """
    plan = [p.epochs for p in kind(name).plan]
    shares = divided(sum(plan) if epochs is None else epochs, plan)
    return replace(recipe, epochs=sum(shares), phases=shares)


def divided(epochs: int, plan: Sequence[int]) -> tuple[int, ...]:
    """Epochs in proportion to a plan, one at least for each; UsageError if there are fewer than phases.

    21 by the plan (6, 8, 3, 4) are that plan, 8 are (2, 3, 1, 2).
    """
    if epochs < len(plan):
        raise UsageError(
            f"--epochs {epochs} cannot be divided into {len(plan)} steps, each of one at least.",
            hint=f"--epochs {sum(plan)} is planned.",
        )
    shares = [max(1, epochs * p // sum(plan)) for p in plan]
    # to those that lack most; from those, if ones became too many, that lack least
    while sum(shares) != epochs:
        lack = [epochs * p / sum(plan) - n for p, n in zip(plan, shares, strict=True)]
        if sum(shares) < epochs:
            shares[lack.index(max(lack))] += 1
        else:
            shares[min((k for k, n in enumerate(shares) if n > 1), key=lack.__getitem__)] -= 1
    return tuple(shares)


def phases(model: Model, recipe: Recipe, task: Training) -> tuple[Phase, ...]:
    """The phases of a run with this recipe; model: made for them where there are several.

    Raises:
        UsageError: they are not those of the model, or the recipe may end them early.
    """
    if not isinstance(model, InPhases):
        return (Phase("", 0, recipe.epochs, task),)
    if len(recipe.phases) != len(model.plan) or sum(recipe.phases) != recipe.epochs or min(recipe.phases) < 1:
        raise UsageError(
            f"{recipe.epochs} epochs in phases of {recipe.phases} are not the {len(model.plan)} phases of"
            f" {type(model).__name__}.",
            hint="`training.phases.alternating` makes such a recipe.",
        )
    if recipe.frozen:
        raise UsageError(
            f"--freeze {recipe.frozen[0]} with --schedule alternating: each step has parts that it trains.",
            hint="Leave one of them out.",
        )
    if recipe.patience:
        raise UsageError(
            f"--patience {recipe.patience} ends a training early; with --schedule alternating each step has "
            "its epochs.",
            hint="Leave it out; --epochs sets the epochs of all steps together.",
        )
    ends = list(accumulate(recipe.phases))
    return tuple(
        Phase(p.name, end - n, end, model.task(i, task), kept=i == len(ends) - 1)
        for i, (p, n, end) in enumerate(zip(model.plan, recipe.phases, ends, strict=True))
    )


def prepared(name: str, model: Model, recipe: Recipe) -> Model:
    """A model as the loop trains it: itself, or made for the phases of the recipe."""
    return kind(name)(model) if recipe.phases else model


def result(model: nn.Module) -> nn.Module:
    """Of what the loop trains, or of its average: the network that is saved."""
    return model.result if isinstance(model, InPhases) else model
