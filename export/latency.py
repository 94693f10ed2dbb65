"""Latency of several engines side by side: the same input, proposals included, taking turns, in one run.

Turn by turn, whatever else the machine does hits all of them alike; figures of different runs are never
put beside each other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedet.export.noise import noise
from edgedet.runtime import Engine

ROUNDS = 200
SECONDS = 6.0
WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """Of one image, in milliseconds, over `runs` runs."""

    p50: float
    p99: float
    runs: int


def side_by_side(
    engines: Mapping[str, Engine], *, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, Latency]:
    """Time `infer` on one image, each engine once per round, the order turning; stops after `seconds`."""
    if not engines:
        return {}
    times: dict[str, list[float]] = {name: [] for name in engines}
    inputs = {name: noise(engine.spec) for name, engine in engines.items()}
    order = list(engines)
    stop = time.perf_counter() + seconds
    for turn in range(-WARM_UP, rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            engines[name].infer(inputs[name])
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
        if turn >= 0 and time.perf_counter() > stop:
            break
    return {
        name: Latency(float(np.percentile(t, 50)), float(np.percentile(t, 99)), len(t))
        for name, t in times.items()
    }
