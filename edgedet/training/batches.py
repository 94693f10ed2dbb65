"""Batches in an order that depends on seed and epoch alone, so that a killed run goes on where it was.

Batches come from the loader processes through pipes, as numpy arrays. torch's own way, shared memory, needs
as much of /dev/shm as the batches on their way (a container has 64 MiB by default), and where there is not,
the batch is lost in the loader's background thread and the training waits for ever. A pipe costs no more.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.process
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from edgedet.contract.errors import (
    DataError,
    EdgedetError,
    EmptyDataset,
    ImageError,
    MaskError,
    TrainingError,
)
from edgedet.contract.proposals import Proposer
from edgedet.contract.targets import Targets
from edgedet.data import Dataset as Source
from edgedet.data.augment import apply
from edgedet.data.sample import Problem, Sample
from edgedet.training.signals import leave_signals_to_the_parent

STALLED_S = 120.0
"""No batch for so long: the loader processes are taken for stuck."""

PROPOSING_S = 10.0
"""An image may take so much longer whose regions are proposed too: the first time, on a busy machine."""

Batch = tuple[Tensor, list[Targets], list[Problem]]
"""images (N, 3, H, W) uint8 RGB, targets, and the problems of samples that had to be replaced."""

Packed: TypeAlias = tuple[npt.NDArray[np.uint8], list[Targets], list[Problem]] | EdgedetError
"""A batch in numpy arrays, or why there is none."""

Item: TypeAlias = tuple[Tensor, Targets, list[Problem]]


class Samples(Dataset[Any]):
    """Augmented samples by (epoch, index); the augmentation depends on seed, epoch and index alone.

    An unreadable image, or one whose mask cannot be used, is replaced by the next good one, and said.

    Args:
        mild: takes the place of `transform` from the epoch `mild_from` on, counted from 0.
        mosaic: makes one image of four, `mosaics` of all before `mild_from`; of boxes alone.
        masks: instance masks too.
        proposer: of regions, for models that take them; regions: as many of an image.
    """

    def __init__(
        self,
        source: Source,
        transform: v2.Compose,
        seed: int,
        *,
        mild: v2.Compose | None = None,
        mild_from: int = 0,
        mosaic: v2.Compose | None = None,
        mosaics: float = 0.0,
        masks: bool = False,
        proposer: Proposer | None = None,
        regions: int = 0,
    ) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.mild, self.mild_from = mild, mild_from
        self.mosaic, self.mosaics = mosaic, mosaics
        self.masks = masks
        self.proposer, self.regions = proposer, regions

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Item] | EdgedetError:
        """The samples of one batch, or the error: raised in a loader process, it would become a traceback."""
        try:
            return [self[key] for key in keys]
        except EmptyDataset as e:
            return e
        except EdgedetError as e:  # of whatever arguments: a plain one survives the way between processes
            return DataError(e.message, hint=e.hint)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        known = len(self.source.problems)
        sample = self._readable(index)
        torch.manual_seed(mixed(self.seed, epoch, index))
        transform, more = self.transform_in(epoch), []
        if self.mosaic is not None and epoch < self.mild_from and float(torch.rand(())) < self.mosaics:
            others = torch.randint(len(self.source), (3,)).tolist()
            transform, more = self.mosaic, [self._readable(i) for i in others]
        image, targets = apply(transform, sample, *more, regions=self.regions)
        return image, targets, self.source.problems.items[known:]

    def transform_in(self, epoch: int) -> v2.Compose:
        """The augmentation of an epoch."""
        return self.mild if self.mild is not None and epoch >= self.mild_from else self.transform

    def _readable(self, index: int) -> Sample:
        first = ""
        for step in range(len(self.source)):
            try:
                at = (index + step) % len(self.source)
                return self.source.load(at, masks=self.masks, proposer=self.proposer)
            except (ImageError, MaskError) as e:
                first = first or e.message
        raise EmptyDataset(f"No image of {self.source.name} can be used; the first error: {first}")


class Order(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch for one process, from batch number `start` on.

    Every process shuffles the same way and takes every `world`-th sample. The last, smaller batch is left
    out: batch norms and the learning rate are set for whole ones.
    """

    def __init__(self, length: int, batch: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for k in range(self.start, len(self)):
            whole = order[k * self.batch : (k + 1) * self.batch]
            yield [(self.epoch, i) for i in whole[self.rank :: self.world]]


def mixed(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine and Python."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Loader:
    """The batches of the order's epoch, from `workers` processes that live as long as the run (0: this one).

    Raises:
        TrainingError: the processes cannot be started. EmptyDataset: no sample can be used.
        RuntimeError: a process died, or gives nothing for too long; `failures.named` has a name for it.
    """

    def __init__(self, samples: Samples, order: Order, workers: int) -> None:
        self.samples, self.workers = samples, workers
        self._processes: set[multiprocessing.process.BaseProcess] = set()
        patience = STALLED_S + (PROPOSING_S * order.batch if samples.proposer is not None else 0)
        self._batches: DataLoader[Packed] = DataLoader(
            samples,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=pack,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            timeout=patience if workers else 0,
            worker_init_fn=_start if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            # as many as torch will make; without room for them its own, half made, would complain later too
            needed = 3 * self.workers + 8 if self.workers else 0
            semaphores = [multiprocessing.Lock() for _ in range(needed)]
            semaphores.clear()
            before = set(multiprocessing.active_children())
            batches = iter(self._batches)
            self._processes |= set(multiprocessing.active_children()) - before
        except OSError as e:
            raise TrainingError(
                f"Cannot start {self.workers} processes that load images: {e}.",
                hint="Semaphores need a /dev/shm that is writable and not full (docker: --shm-size 1g), "
                "processes the user's limit (ulimit -u); or load in the training process: --workers 0.",
            ) from e
        for packed in batches:
            if isinstance(packed, EdgedetError):
                raise packed
            images, targets, problems = packed
            yield torch.from_numpy(images), [converted(t, torch.from_numpy) for t in targets], problems

    def close(self) -> None:
        """End the processes, also one that answers nothing: Python would wait for it at its end."""
        ours = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
        # torch's handler would raise for each process that ends now
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if ours else None
        for process in self._processes:
            process.kill()
            process.join()
        self._processes.clear()
        if ours:
            signal.signal(signal.SIGCHLD, before)


def pack(items: list[Item] | EdgedetError) -> Packed:
    """Stack the images; targets stay a list, one per image."""
    if isinstance(items, EdgedetError):
        return items
    images, targets, problems = zip(*items, strict=True)
    arrays = [converted(t, Tensor.numpy) for t in targets]
    return torch.stack(images).numpy(), arrays, [p for found in problems for p in found]


def converted(targets: Targets, convert: Callable[[Any], Any]) -> Targets:
    """The targets with each array converted."""
    boxes, labels, ignore = (convert(a) for a in (targets.boxes, targets.labels, targets.ignore))
    some = (targets.class_map, targets.masks, targets.proposals)
    return Targets(boxes, labels, ignore, *(None if a is None else convert(a) for a in some))


def _start(worker: int) -> None:
    leave_signals_to_the_parent()
