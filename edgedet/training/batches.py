"""Batches in an order that depends on seed and epoch alone, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from edgedet.contract.errors import EmptyDataset, ImageError, MaskError
from edgedet.contract.targets import Targets
from edgedet.data import Dataset as Source
from edgedet.data.augment import apply
from edgedet.data.sample import Problem, Sample

Batch = tuple[Tensor, list[Targets], list[Problem]]
"""images (N, 3, H, W) uint8 RGB, targets, and the problems of samples that had to be replaced."""


class Samples(Dataset[Any]):
    """Augmented samples by (epoch, index); the augmentation depends on seed, epoch and index alone.

    An unreadable image, or one whose mask cannot be used, is replaced by the next good one, and said.
    """

    def __init__(self, source: Source, transform: v2.Compose, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Targets, list[Problem]]:
        epoch, index = key
        known = len(self.source.problems)
        sample = self._readable(index)
        torch.manual_seed(mixed(self.seed, epoch, index))
        image, targets = apply(self.transform, sample)
        return image, targets, self.source.problems.items[known:]

    def _readable(self, index: int) -> Sample:
        first = ""
        for step in range(len(self.source)):
            try:
                return self.source.load((index + step) % len(self.source))
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


def collate(items: list[tuple[Tensor, Targets, list[Problem]]]) -> Batch:
    """Stack the images; targets stay a list, one per image."""
    images, targets, problems = zip(*items, strict=True)
    return torch.stack(images), list(targets), [p for found in problems for p in found]


def loader(samples: Samples, order: Order, workers: int) -> DataLoader[Batch]:
    """A loader whose workers live as long as the run."""
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
