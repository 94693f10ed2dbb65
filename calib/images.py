"""The calibration set: which images are looked at, read and preprocessed exactly as in deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import ImageError
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.spec import Input
from edgedet.data import Dataset

DEFAULT_IMAGES = 500

FLAT = 2.0
"""Grey levels: a picture whose colours deviate by less shows nothing, be it a lens cap with its noise."""


class CalibrationSet:
    """Up to `limit` images, evenly spread over a data set; unreadable ones are noted and skipped.

    Iterating gives network inputs (1, 3, H, W) float32, one at a time in one buffer. `held_out` are
    indices of other images of the same data, for comparing INT8 with FP32 on what it has not seen.
    """

    def __init__(self, dataset: Dataset, spec: Input, limit: int = DEFAULT_IMAGES) -> None:
        self.dataset = dataset
        self.spec = spec
        self.indices = _spread(range(len(dataset)), limit)
        chosen = set(self.indices)
        self.held_out = [i for i in range(len(dataset)) if i not in chosen]
        self.skipped: list[str] = []
        self._digest = hashlib.sha256()
        self._read = self._flat = 0
        self._different: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        self._digest, self._read, self.skipped = hashlib.sha256(), 0, []
        self._flat, self._different = 0, set()
        prepare = Preprocessor(self.spec)
        batch = np.empty((1, 3, self.spec.height, self.spec.width), np.float32)
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
            prepare(image, batch[0])
            yield batch

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
