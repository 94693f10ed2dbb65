"""The one training loop, for every model of the registry.

    edgedet-train --model yolo --data voc:VOCdevkit
    torchrun --nproc-per-node 2 -m edgedet train --model yolo --data voc:VOCdevkit

Determinism: the order of the samples, their augmentation and every random number of a step depend on the
seed, the epoch and the position alone. A run that was killed goes on from its last state file and, on one
process with the same number of threads, takes the same steps to the same bits as an unbroken one.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edgedet.contract.errors import EmptyDataset, TrainingError, UsageError
from edgedet.contract.numbers import check_count
from edgedet.contract.proposals import cached
from edgedet.contract.spec import ModelSpec
from edgedet.data import Dataset
from edgedet.data.augment_mosaic import mosaic_transform
from edgedet.models.base import Model
from edgedet.training.after import after, follow
from edgedet.training.batches import Batch, Loader, Order, Samples, mixed
from edgedet.training.checkpoint import save_model
from edgedet.training.failures import named
from edgedet.training.measuring import measure
from edgedet.training.optimise import (
    Normalise,
    TrainingLoss,
    amp_dtype,
    learning_rate,
    parameter_groups,
    update_average,
)
from edgedet.training.phases import InPhases, Phase, phases, prepared, result
from edgedet.training.processes import Processes
from edgedet.training.recipe import Recipe
from edgedet.training.run_folder import RunFolder
from edgedet.training.signals import Stopped, StopRequest
from edgedet.training.state import Progress, check_finite, load_into, progress_of, save_state
from edgedet.training.tasks import TRAINING, Measured

MOST_SKIPPED = 20
"""Steps in a row that may be skipped; float16 needs up to 16 to find the scale of its first gradients."""

_CALMER = "Lower --lr, or run with --amp off. What was saved is from before."


@dataclass
class Trainer:
    """A run: model, data and recipe, and the folder that holds all that is needed to repeat it.

    Args:
        model: with its initial weights; trained in place, as a part of what the recipe's phases take, if any.
        spec: of the model at its training size; travels with every checkpoint.
        train, val: data sets with the spec's classes.
        recipe: the numbers. folder: where the run lives.
        seed: of everything random. workers: processes that load and augment.
        state_every: optimiser steps between state files (an epoch's end always writes one).
        eval_every: epochs between validations. eval_limit: images of `val` per validation (None = all).
        stop: asked after each step whether a signal wants the run to end.
        proposals_cache: folder for the proposals of models that take them; by default in the run's own.

    Raises:
        DataError: data of another task. EmptyDataset: nothing to learn from. TrainingError: a batch that
            is larger than the data, or smaller than the number of processes. Nothing is written yet.
    """

    model: Model
    spec: ModelSpec
    train: Dataset
    val: Dataset | None
    recipe: Recipe
    folder: RunFolder
    processes: Processes
    seed: int = 0
    workers: int = 1
    amp: str = "auto"
    state_every: int = 50
    eval_every: int = 1
    eval_limit: int | None = None
    progress: Progress = field(default_factory=Progress)
    stop: StopRequest = field(default_factory=StopRequest)
    proposals_cache: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("state_every", 1), ("eval_every", 1), ("eval_limit", 1)):
            check_count(name, getattr(self, name), least)
        device = self.processes.device
        self.task = TRAINING[self.spec.task]
        self.amp_dtype = amp_dtype(self.amp, device)
        self.model.freeze(self.recipe.frozen)
        self.model = prepared(self.spec.model, self.model, self.recipe)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.phases = phases(self.model, self.recipe, self.task)
        self._begin(self.phases[0])
        self.train = self.task.of_use(self.train, self.spec.model)
        self.val = self.val and self.task.of_use(self.val, self.spec.model)
        if not self.train.semantic and objects(self.train) == 0:
            found = f" ({self.train.problems.summary()})" if len(self.train.problems) else ""
            raise EmptyDataset(
                f"{self.train.name} has {len(self.train)} images and no object to learn from{found}.",
                hint="Check the labels' folder and format; edgedet reads them as voc:, coco: or yolo: says.",
            )
        red, green, blue = (round(255 * m) for m in self.spec.input.mean)
        seen, mild = (
            self.task.transform(self.spec.input.size, self.recipe, (red, green, blue), m)
            for m in (False, True)
        )
        self.order = Order(
            len(self.train),
            self.recipe.batch,
            self.seed,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        if len(self.order) == 0:
            raise TrainingError(
                f"{self.train.name} has {len(self.train)} images, "
                f"fewer than one batch of {self.recipe.batch}.",
                hint="Use a smaller --batch.",
            )
        self.after = after(self)
        if self.recipe.patience and (self.val is None or self.after is not None):
            raise UsageError(
                f"--patience {self.recipe.patience} waits for a better validation, and there is none.",
                hint="Leave it out, or validate (--val-split).",
            )
        if self.recipe.batch < self.processes.world:
            raise TrainingError(
                f"A batch of {self.recipe.batch} images is too small for {self.processes.world} processes.",
                hint="Use a larger --batch, or fewer processes.",
            )
        self.proposer = cached(self.spec.proposals, self.proposals_cache or self.folder.proposals)
        samples = Samples(
            self.train,
            seen,
            self.seed,
            mild=mild,
            mild_from=self.recipe.epochs - self.recipe.mild_epochs,
            mosaic=mosaic_transform(self.spec.input.size) if self.recipe.mosaic else None,
            mosaics=self.recipe.mosaic,
            masks=self.task.instances,
            proposer=self.proposer,
            regions=self.spec.proposals.count if self.spec.proposals else 0,
        )
        self.batches = Loader(samples, self.order, self.workers)
        self.normalise = Normalise(self.spec, device)
        self._skipped_in_a_row = 0

    def _begin(self, phase: Phase) -> None:
        """Train what a phase trains, from the weights that the model has."""
        self.phase = phase
        if isinstance(self.model, InPhases):
            self.model.begin(self.phases.index(phase))
        self.model.zero_grad(set_to_none=True)  # what an earlier phase left would count in the norm
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.recipe), lr=self.recipe.lr)
        device = self.processes.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp_dtype is torch.float16)

    def resume(self) -> None:
        """Go on from the folder's state file."""
        epoch = progress_of(self.folder.state).epoch
        self._begin(next((p for p in self.phases if epoch < p.end), self.phases[-1]))
        self.progress = load_into(self.folder.state, self.model, self.average, self.optimizer, self.scaler)
        self.folder.truncate(self.progress.step, self.progress.epoch)

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end; yields an event (a JSON-like dictionary) per step and per validation.

        Raises:
            Stopped: a signal asked for it; the state was saved, if a step was made.
            TrainingError: the loss is no longer finite, a process died, memory ran out.
            OutputError: a file cannot be written. Files that were there stay as they were.
        """
        with named(self.processes.world), self.stop.deferred():
            try:
                while self.progress.epoch < self.recipe.epochs and not self.progress.finished:
                    yield from self._epochs(self.phase)
                if not self.progress.finished:
                    yield from self._finish()
            except Stopped:
                if self.progress.step:
                    self._save_state()
                raise
            finally:
                self.batches.close()
            self.processes.barrier()

    def _epochs(self, phase: Phase) -> Iterator[dict[str, Any]]:
        """Those of a phase that are left. Several processes begin it with the main one's weights."""
        wrapped = self._distributed()
        while self.phase is phase and self.progress.epoch < phase.end and not self.progress.finished:
            yield from self._epoch(wrapped)
            yield from self._end_epoch()

    def _end_epoch(self) -> Iterator[dict[str, Any]]:
        """Validate, save, and only then count the epoch: a run stopped before does it again."""
        done = self.progress.epoch + 1
        last = done == self.phase.end
        event = None
        if self.after is not None:
            pass  # nothing is to be measured, or saved, before all of it is done
        elif self.val is None:
            self._save_best(None)
        elif last or done % self.eval_every == 0:
            event = self._validate(self.progress.epoch)
        over = done == self.recipe.epochs
        self.progress.finished = self.after is None and (over or self._stalled())
        self.progress.epoch, self.progress.batch = done, 0
        if last and not over:  # before the state is saved: it is always of the phase of its epoch
            self.model.load_state_dict(self.average.state_dict())
            self.progress.best = self.progress.best_epoch = None  # of another measure
            self._begin(self.phases[self.phases.index(self.phase) + 1])
        self._save_state()
        if event is not None:
            yield event

    def _finish(self) -> Iterator[dict[str, Any]]:
        """What follows the epochs; then the only validation."""
        assert self.after is not None
        yield from follow(self, self.after)
        event = None if self.val is None else self._validate(self.progress.epoch - 1)
        if event is None:
            self._save_best(None)
        self.progress.finished = True
        self._save_state()
        if self.processes.main:
            self.after.clean()
        if event is not None:
            yield event

    def _epoch(self, wrapped: nn.Module) -> Iterator[dict[str, Any]]:
        self.order.epoch, self.order.start = self.progress.epoch, self.progress.batch
        self.model.train()
        self.model.begin_epoch(self.progress.epoch / self.recipe.epochs)
        started = time.monotonic()
        batches = iter(self.batches)
        while (batch := self._next(batches)) is not None:
            known = len(self.train.problems)
            event = self._step(wrapped, batch)
            self.progress.batch += 1
            self.progress.step += 1
            now = time.monotonic()
            event |= {"images_per_s": self.recipe.batch / max(now - started, 1e-9)}
            started = now
            if self.processes.main:
                self.folder.log_step(event)
            if self.progress.step % self.state_every == 0:
                self._save_state()
            self.agree()
            yield event | {"problems": self.train.problems.items[known:]}
        self.order.start = 0

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        # several processes end together, after a step
        with self.stop.interrupting(self.processes.world == 1):
            return next(batches, None)

    def agree(self, done: bool = False) -> bool:
        """Tell the other processes of a signal, or that the main one is done; whether it is.

        Raises:
            Stopped: a signal asked one of them to end. All end here, after the same step.
        """
        signal, main_is_done = self.processes.greatest(self.stop.signal or 0, float(done))
        if signal:
            raise Stopped(int(signal))
        return bool(main_is_done)

    def _step(self, wrapped: nn.Module, batch: Batch) -> dict[str, Any]:
        images, targets, problems = batch
        for problem in problems:
            self.train.problems.take(problem)
        step, length = self.progress.step, len(self.order)
        begun = self.phase.first * length
        factor = learning_rate(step - begun, self.phase.end * length - begun, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * group["share"] * factor
        torch.manual_seed(mixed(self.seed, step, self.processes.rank))

        with torch.autocast(self.processes.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            terms = wrapped(self.normalise(images), targets)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        # losses are means over images, gradients over processes, which may have one image more than others
        share = len(images) * self.processes.world / self.recipe.batch
        self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        *values, total_loss, gradient = torch.stack([*terms.values(), loss, norm]).detach().tolist()
        if not math.isfinite(total_loss):
            raise TrainingError(
                f"The loss became {total_loss} at step {step} (epoch {self.progress.epoch}).", hint=_CALMER
            )
        event: dict[str, Any] = {"step": step, "epoch": self.progress.epoch, "lr": self.recipe.lr * factor}
        event |= dict(zip(terms, values, strict=True)) | {"loss": total_loss} | self.phase.said
        if math.isfinite(gradient):
            self.scaler.step(self.optimizer)
            update_average(self.average, self.model, self.recipe.ema, step - begun)
            self._skipped_in_a_row = 0
            event["gradient_norm"] = gradient
        else:  # the same in every process: gradients are means over them
            self._skip(step)
            event["skipped"] = 1
        self.scaler.update()
        return event

    def _skip(self, step: int) -> None:
        """Count a step whose gradient is not finite: it would make every weight it reaches so."""
        self.progress.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise TrainingError(
                f"The gradient was not finite in {MOST_SKIPPED} steps in a row, to step {step} "
                f"(epoch {self.progress.epoch}); {self.progress.skipped} steps were skipped in all.",
                hint=_CALMER,
            )

    def _validate(self, epoch: int) -> dict[str, Any]:
        """The score of the averaged weights, on the main process; every process learns the result.

        epoch: after which they are measured.

        A validation with nothing to measure has the score None. While there was no other, the weights kept
        as the best are the last ones.
        """
        task = self.phase.task
        metrics, reason = measure(self, task)
        score = self.processes.broadcast(task.value(metrics) if metrics is not None else None)
        best = self.progress.best
        if score is not None and (best is None or score > best):
            self._save_best(metrics)
            self.progress.best, self.progress.best_epoch = score, epoch
        elif score is None and best is None:
            self._save_best(None)
        event: dict[str, Any] = {"validation": epoch, "score": score, "best": self.progress.best}
        event |= {"measure": task.score} | self.phase.said
        if score is None:
            event["reason"] = reason
        if self.processes.main:
            found = {} if metrics is None else {"metrics": json.loads(metrics.to_json())}
            self.folder.log_epoch(event | found)
        return event

    def _stalled(self) -> bool:
        if self.recipe.patience == 0 or self.progress.best_epoch is None:
            return False
        return self.progress.epoch - self.progress.best_epoch >= self.recipe.patience * self.eval_every

    def _save_best(self, metrics: Measured | None) -> None:
        if not self.processes.main or not self.phase.kept:
            return
        check_finite(self.average, "best.safetensors")
        spec, score = self.spec, None if metrics is None else self.task.value(metrics)
        if score is not None and self.val is not None and self.eval_limit is None:
            spec = spec.with_(metrics={f"{self.task.metric}@{self.val.name}": round(score, 6)})
        save_model(self.folder.best, result(self.average).state_dict(), spec, self.recipe.model)

    def _save_state(self) -> None:
        if self.processes.main:
            self.folder.flush()
            save_state(
                self.folder.state, self.progress, self.model, self.average, self.optimizer, self.scaler
            )

    def file_bytes(self) -> int:
        """What the folder needs on disk: state and weights, each beside the one it replaces."""
        weights: int = sum(t.nbytes for t in self.model.state_dict().values())
        several = len(self.phases) > 1  # each trains other parameters
        moments: int = sum(2 * p.nbytes for p in self.model.parameters() if p.requires_grad or several)
        return 2 * (3 * weights + moments) + (self.after.file_bytes() if self.after is not None else 0)

    def _distributed(self) -> nn.Module:
        step = TrainingLoss(self.model)
        if self.processes.world == 1:
            return step
        return DistributedDataParallel(step, forward_sync_buffers=False)


def objects(data: Dataset) -> int:
    """Boxes that can be learned from."""
    return sum(int((~t.ignore).sum()) for t in data.truths)
