"""How long things took, at constant memory, and the report of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

_LOWEST = 1e-6  # seconds
_LOG_GROWTH = math.log(1.02)
_BUCKETS = 1 + math.ceil(math.log(1e3 / _LOWEST) / _LOG_GROWTH)  # up to 1000 s


@dataclass(frozen=True)
class Timing:
    """A distribution of durations in milliseconds; percentiles to within 1 %. All 0 if count is."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Durations in buckets 2 % wide from 1 us to 1000 s: memory does not grow with their number.

    Mean and maximum are exact. One thread at a time.
    """

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self.count = 0
        self.total = 0.0
        self.max = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        index = int(math.log(seconds / _LOWEST) / _LOG_GROWTH) if seconds > _LOWEST else 0
        self._buckets[min(index, _BUCKETS - 1)] += 1
        self.count += 1
        self.total += seconds
        self.max = max(self.max, seconds)

    def percentile(self, q: float) -> float:
        """The duration in seconds that a share q in [0, 1] of them does not exceed; 0 if there is none."""
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        index = int(np.searchsorted(np.cumsum(self._buckets), rank))
        # the middle of the bucket, which no duration exceeds by more than half its width
        return min(_LOWEST * math.exp((index + 0.5) * _LOG_GROWTH), self.max)

    def timing(self) -> Timing:
        """The distribution so far."""
        mean = self.total / self.count if self.count else 0.0
        values = (mean, self.percentile(0.5), self.percentile(0.95), self.percentile(0.99), self.max)
        return Timing(self.count, *(round(1e3 * v, 4) for v in values))


@dataclass(frozen=True)
class Report:
    """What a pipeline did.

    frames: results delivered; dropped: frames that a live source gave and a newer one replaced; seconds:
    from the first read to the last result; fps: frames / seconds; engine_busy: share of that time in
    which the engine computed (1 = everything else was hidden behind it); stages: by name, in order, the
    engine's without its queue; latency: from a frame in hand to its result; notices: what a source had
    to say, for example that it was lost and found; interrupted: whether Ctrl-C ended the run.
    """

    model: str
    engine: str
    source: str
    frames: int
    dropped: int
    seconds: float
    fps: float
    engine_busy: float
    stages: Mapping[str, Timing]
    latency: Timing
    notices: tuple[str, ...] = ()
    interrupted: bool = False

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def table(self) -> Table:
        """For people: a rich table of the stages, with the totals below it."""
        from rich.table import Table

        table = Table(title=f"{self.model} · {self.engine} · {self.source}", title_justify="left")
        table.add_column("stage")
        for name in ("p50", "p95", "p99", "max"):
            table.add_column(f"{name} ms", justify="right")
        for name, t in [*self.stages.items(), ("capture to result", self.latency)]:
            values = (t.p50, t.p95, t.p99, t.max)
            table.add_row(name, *(f"{v:.2f}" for v in values) if t.count else ("--",) * 4)
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        interrupted = ", interrupted" if self.interrupted else ""
        table.caption = (
            f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS, "
            f"engine busy {100 * self.engine_busy:.0f} %{dropped}{interrupted}"
        )
        table.caption_justify = "left"
        return table
