"""The same run twice: seeds, and the algorithms that give the same sums."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from edgedet.contract.numbers import check_count

MAX_SEED = 2**63 - 1


@contextlib.contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seeds for building a model, and deterministic algorithms where there is a choice.

    Raises UsageError: torch takes no such seed.
    """
    check_count("the seed", seed, least=0, most=MAX_SEED)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
