"""The calibration set: which images are looked at, read and preprocessed exactly as in deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.calib.observe import Feed
from edgedet.contract.errors import ImageError
from edgedet.contract.numbers import check_count
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.proposals import Proposer, RegionInput
from edgedet.contract.spec import ModelSpec
from edgedet.data import Dataset

DEFAULT_IMAGES = 500

FLAT = 2.0
"""Grey levels: a picture whose colours deviate by less shows nothing, be it a lens cap with its noise."""


class Feeder:
    """From an image (H, W, 3) uint8 BGR to what a graph takes, with its proposals where it takes such.

    proposer: of them, instead of the spec's own (one with a cache).
    """

    def __init__(self, spec: ModelSpec, proposer: Proposer | None = None) -> None:
        self.spec = spec
        self._prepare = Preprocessor(spec.input)
        self._regions = RegionInput(spec, proposer) if spec.proposals else None

    def __call__(self, image: npt.NDArray[np.uint8]) -> Feed:
        """{input name: array with a batch of one}, made anew. Raises ImageError as its parts do."""
        taken = self.spec.input
        pixels = np.empty((1, *taken.shape[1:]), taken.dtype)
        transform = self._prepare(image, pixels[0])
        feed: dict[str, npt.NDArray[Any]] = {taken.name: pixels}
        if self._regions is not None and self.spec.proposals is not None:
            rows = feed[self._regions.name] = np.zeros((1, self.spec.proposals.a_run, 4), np.float32)
            self._regions(image, transform, rows[0])
        return feed


class CalibrationSet:
    """Up to `limit` images, evenly spread over a data set; unreadable ones are noted and skipped.

    Iterating gives what the graph of `spec` takes, image by image. `held_out` are indices of other images of
    the same data, for comparing INT8 with FP32 on what it has not seen. `proposer`: see `Feeder`.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: ModelSpec,
        limit: int = DEFAULT_IMAGES,
        *,
        proposer: Proposer | None = None,
    ) -> None:
        check_count("limit", limit)
        self.dataset = dataset
        self._feed = Feeder(spec, proposer)
        self.indices = _spread(range(len(dataset)), limit)
        chosen = set(self.indices)
        self.held_out = [i for i in range(len(dataset)) if i not in chosen]
        self.skipped: list[str] = []
        self._digest = hashlib.sha256()
        self._read = self._flat = 0
        self._different: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Feed]:
        self._digest, self._read, self.skipped = hashlib.sha256(), 0, []
        self._flat, self._different = 0, set()
        for i in self.indices:
            try:
                image = self.dataset.image(i)
            except ImageError as e:
                self.skipped.append(e.message)
                continue
            self._digest.update(image.tobytes())
            self._different.add(hashlib.sha256(image.tobytes()).digest())
            self._flat += float(image.std(axis=(0, 1)).max()) < FLAT
            self._read += 1
            yield self._feed(image)

    def describe(self) -> str:
        """What was read by the last iteration, in words and by the hash of its pixels."""
        return f"{self.dataset.name}, {self._read} images, sha256 {self._digest.hexdigest()[:16]}"

    def doubts(self) -> str:
        """Why ranges from what the last iteration read mean little; empty where it seems sound."""
        if 2 * self._flat > self._read:
            return f"{self._flat} of {self._read} calibration images show nothing (one colour all over)"
        if self._read > 1 and 2 * len(self._different) <= self._read:
            return f"only {len(self._different)} of {self._read} calibration images differ"
        return ""

    def frames(self, limit: int) -> tuple[list[int], bool]:
        """Indices of up to `limit` images to compare INT8 with FP32 on, and whether they are held out.

        Where every image was used for calibration, they are among those.
        """
        source = self.held_out or self.indices
        return _spread(source, limit), bool(self.held_out)


def _spread(items: range | list[int], limit: int) -> list[int]:
    """`limit` of the items, evenly spread; all where there are fewer."""
    n = len(items)
    return list(items) if n <= limit else [items[i * n // limit] for i in range(limit)]
