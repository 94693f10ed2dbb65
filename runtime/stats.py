"""How long things took, at constant memory, and the report of a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedet.contract.frames import Notice
from edgedet.contract.text import printable

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


class StageClock:
    """Wall and CPU time of a run by stage. Each stage is timed by one thread at a time.

    CPU time is that of the thread which calls; what libraries do on threads of their own (the network, a
    decoder) is the rest of the process's CPU time, and is called "network and libraries".
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.latency = Histogram()
        self.seconds = 0.0
        self._stages = {name: Histogram() for name in stages}
        self._cpu = dict.fromkeys(stages, 0.0)
        self._began = self._process = self._ended = 0.0

    def start(self) -> None:
        """The run begins."""
        self._began, self._process = time.monotonic(), time.process_time()

    @property
    def frames(self) -> int:
        """Results so far."""
        return self.latency.count

    @property
    def fps(self) -> float:
        """Results a second, from the start to the last one."""
        return self.frames / self.seconds if self.seconds else 0.0

    def result(self, latency: float) -> None:
        """A result has come, `latency` seconds after its frame."""
        self.latency.add(latency)
        self.seconds = time.monotonic() - self._began
        self._ended = time.process_time()

    def add(self, stage: str, seconds: float) -> None:
        """Wall time that was measured elsewhere."""
        self._stages[stage].add(seconds)

    def stage(self, name: str) -> _Timing:
        """A context whose wall and CPU time belong to a stage; nothing is counted where it raises."""
        return _Timing(self._stages[name], self._cpu, name)

    def cpu(self, name: str) -> _Timing:
        """A context whose CPU time belongs to a stage; its wall time is counted by `add`."""
        return _Timing(None, self._cpu, name)

    def timings(self) -> dict[str, Timing]:
        """Wall time by stage."""
        return {name: h.timing() for name, h in self._stages.items()}

    def cpu_ms(self) -> dict[str, float]:
        """CPU milliseconds per result by stage, and of all that runs on other threads; {} without results."""
        if not self.frames:
            return {}
        each = {name: 1e3 * s / self.frames for name, s in self._cpu.items() if name != "network"}
        whole = 1e3 * (self._ended - self._process) / self.frames
        each["network and libraries"] = max(0.0, whole - sum(each.values()))
        return {name: round(ms, 4) for name, ms in each.items()}


class _Timing:
    """See `StageClock.stage`. `pause` and `resume` leave out a wait in between."""

    def __init__(self, wall: Histogram | None, cpu: dict[str, float], name: str) -> None:
        self._wall, self._cpu, self._name = wall, cpu, name
        self._spent = 0.0
        self._began = self._thread = 0.0

    def __enter__(self) -> _Timing:
        self._thread = time.thread_time()
        self._began = time.perf_counter()
        return self

    def discard(self) -> None:
        """Count no wall time: nothing came."""
        self._wall = None

    def pause(self) -> None:
        self._spent += time.perf_counter() - self._began

    def resume(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._wall is not None and kind is None:
            self._wall.add(self._spent + time.perf_counter() - self._began)
        self._cpu[self._name] += time.thread_time() - self._thread


@dataclass(frozen=True)
class Report:
    """What a pipeline did.

    frames: results delivered; dropped: frames that a live source gave and a newer one replaced; lost: frames
    that came and could not be decoded; seconds: from the start to the last result; fps: frames / seconds;
    stages: wall time by name, in order, the network's without its queue; cpu_ms: CPU milliseconds per frame
    by stage, where "network and libraries" is what ran on other threads than the pipeline's; latency: of a
    file from when reading the frame began, of a live source from when the source handed it over (its own
    network and decoding are before that), to its result; notices: what happened to the source; signal: the
    number of the signal that ended the run, None if none did.
    """

    model: str
    engine: str
    source: str
    frames: int
    dropped: int
    lost: int
    seconds: float
    fps: float
    stages: Mapping[str, Timing]
    cpu_ms: Mapping[str, float]
    latency: Timing
    notices: tuple[Notice, ...] = ()
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run."""
        return self.signal is not None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self) | {"interrupted": self.interrupted}, separators=(",", ":"))

    def table(self) -> Table:
        """For people: a rich table of the stages, with the totals below it."""
        from rich.table import Table
        from rich.text import Text

        title = Text(printable(f"{self.model} · {self.engine} · {self.source}"))
        table = Table(title=title, title_justify="left")
        table.add_column("stage")
        for name in ("p50", "p95", "p99", "max"):
            table.add_column(f"{name} ms", justify="right")
        table.add_column("CPU ms a frame", justify="right")
        rows = [*self.stages.items(), ("network and libraries", None), ("capture to result", self.latency)]
        for name, t in rows:
            values = ("",) * 4 if t is None else ("--",) * 4
            if t is not None and t.count:
                values = tuple(f"{v:.2f}" for v in (t.p50, t.p95, t.p99, t.max))  # type: ignore[assignment]
            cpu = f"{self.cpu_ms[name]:.2f}" if name in self.cpu_ms else ""
            if any(values) or cpu:
                table.add_row(name, *values, cpu)
        parts = [f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS"]
        if self.cpu_ms:
            parts.append(f"{sum(self.cpu_ms.values()):.1f} ms of CPU a frame")
        parts += [f"{n} {what}" for n, what in ((self.dropped, "dropped"), (self.lost, "lost")) if n]
        table.caption = ", ".join([*parts, *(["interrupted"] if self.interrupted else [])])
        table.caption_justify = "left"
        return table
