"""How fast a model is here: the engine alone and the whole pipeline, in turns in one run.

Two figures from two runs differ by whatever else the machine was doing. So every round measures, for
every subject, one pass of the pipeline and one of the engine, back to back and in changing order. All
figures that stand beside each other are of one round, the one whose ratio is the median; the range of the
ratio over all rounds stands beside it. A median of each figure by itself would show a ratio that the two
throughputs next to it do not have.

The engine alone is measured as the pipeline uses it, so that the ratio says what the rest costs: the
same opened engine, the same number of requests in flight, their buffers filled beforehand with frames of
the same source. Nothing is copied, decoded or drawn under its clock.

On a CPU the parts share the cores, so what each costs is CPU time: of the network and of decoding, each
alone, and of the pipeline by stage. Where all cores are busy, a pipeline cannot reach more of its engine
than network / (network + decoding), whatever the rest costs (`Round.bound`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgedet.contract.errors import SourceError, UsageError
from edgedet.contract.preprocess import Preprocessor
from edgedet.runtime.pipeline import Pipeline
from edgedet.runtime.predictor import CpuPredictor, open_predictor
from edgedet.runtime.sinks.overlay import Overlay
from edgedet.runtime.sinks.sink import Callback, JsonLines
from edgedet.runtime.sources.source import open_source
from edgedet.runtime.stats import Histogram, Report, Timing

PIPELINE_CLOCK = "capture, resize, network, decoding, drawing, JSON line"
ENGINE_CLOCK = "network alone, inputs ready"
LATENCY_CLOCK = "network alone, one request at a time"

_WARM_UP = 10
_LATENCY_RUNS = 30


@dataclass(frozen=True)
class Round:
    """One turn of one subject.

    engine_fps counts images; latency is of the network, one request at a time; network_cpu, decode_cpu:
    CPU milliseconds for an image of the engine alone, and for a frame of decoding alone, on all threads.
    """

    pipeline: Report
    engine_fps: float
    latency: Timing
    network_cpu: float
    decode_cpu: float

    @property
    def ratio(self) -> float:
        """Pipeline throughput over engine throughput."""
        return self.pipeline.fps / self.engine_fps

    @property
    def bound(self) -> float:
        """The share of CPU time that decoding leaves to the network, if there is nothing else."""
        return self.network_cpu / (self.network_cpu + self.decode_cpu)


@dataclass(frozen=True)
class Measured:
    """One model file on one engine, over all rounds."""

    file: Path
    model: str
    precision: str
    library: str
    engine: str
    size: tuple[int, int]
    batch: int
    streams: int
    in_flight: int
    rounds: tuple[Round, ...]

    @property
    def middle(self) -> Round:
        """The round with the median ratio, the lower of two: all figures but ranges are of it."""
        return sorted(self.rounds, key=lambda r: r.ratio)[(len(self.rounds) - 1) // 2]

    @property
    def ratio_range(self) -> tuple[float, float]:
        """The least and the most over the rounds."""
        ratios = [r.ratio for r in self.rounds]
        return min(ratios), max(ratios)

    def to_json(self) -> dict[str, Any]:
        """All figures, milliseconds and images per second."""
        shown = self.middle
        least, most = self.ratio_range
        return {
            "file": str(self.file),
            "model": self.model,
            "precision": self.precision,
            "engine": self.engine,
            "height": self.size[0],
            "width": self.size[1],
            "batch": self.batch,
            "streams": self.streams,
            "in_flight": self.in_flight,
            "pipeline_fps": round(shown.pipeline.fps, 2),
            "engine_fps": round(shown.engine_fps, 2),
            "pipeline_over_engine": {
                "this": round(shown.ratio, 4),
                "min": round(least, 4),
                "max": round(most, 4),
                "bound": round(shown.bound, 4),
            },
            "cpu_ms": {"network": round(shown.network_cpu, 4), "decoding": round(shown.decode_cpu, 4)},
            "latency_ms": asdict(shown.latency),
            "pipeline": json.loads(shown.pipeline.to_json()),
            "rounds": [
                {
                    "pipeline_fps": r.pipeline.fps,
                    "engine_fps": r.engine_fps,
                    "latency_p50_ms": r.latency.p50,
                    "network_cpu_ms": r.network_cpu,
                    "decode_cpu_ms": r.decode_cpu,
                }
                for r in self.rounds
            ],
        }


@dataclass(frozen=True)
class Gain:
    """What INT8 brings: latency of the INT8 file over that of the FP32 file, same model, same engine.

    Median, least and most of the rounds' own ratios.
    """

    model: str
    library: str
    median: float
    least: float
    most: float


def measure(
    models: Sequence[Path],
    engines: Sequence[str],
    source: str,
    *,
    frames: int,
    rounds: int,
    streams: int = 1,
    threads: int | None = None,
    precision: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Measure every model on every engine.

    `source` must be readable again from its start (a video file, images); a pass takes `frames` of it,
    fewer where it is shorter. `threads`, `streams` and `precision` are those of `open_engine`. `progress`
    is told what was measured, once per model, engine and round.

    Raises:
        UsageError: a live source. The errors of opening models and sources.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "results.jsonl"
        subjects = []
        for path in models:
            for library in engines:
                predictor = stack.enter_context(
                    open_predictor(
                        path, engine=library, threads=threads, streams=streams, precision=precision
                    )
                )
                subjects.append(_Subject(path, library, predictor, source, lines))
        for subject in subjects:
            subject.prepare()
        done: list[list[Round]] = [[] for _ in subjects]
        for number in range(rounds):
            for subject, results in zip(subjects, done, strict=True):
                results.append(subject.round(frames, engine_first=number % 2 == 1))
                progress(f"{subject.path.name} on {subject.library}")
        return [s.measured(tuple(r)) for s, r in zip(subjects, done, strict=True)]


def gains(results: Sequence[Measured]) -> list[Gain]:
    """INT8 over FP32 for every model and engine that has both, paired round by round."""
    found = []
    for low in results:
        for full in results:
            same = (low.model, low.library, low.size) == (full.model, full.library, full.size)
            if same and (low.precision, full.precision) == ("int8", "fp32"):
                pairs = zip(low.rounds, full.rounds, strict=True)
                found.append(
                    Gain(low.model, low.library, *_spread([a.latency.p50 / b.latency.p50 for a, b in pairs]))
                )
    return found


class _Subject:
    """One opened model, and how it is driven."""

    def __init__(self, path: Path, library: str, predictor: CpuPredictor, source: str, lines: Path) -> None:
        self.path = path
        self.library = library
        self.predictor = predictor
        self.source = source
        self.lines = lines
        self.spec = predictor.spec
        self.requests = [predictor.engine.request(predictor.batch) for _ in range(predictor.in_flight)]

    def prepare(self) -> None:
        """Fill the requests with frames of the source, and let caches and allocators settle."""
        preprocessor = Preprocessor(self.spec.input)
        rows = [row for r in self.requests for row in r.inputs[self.spec.input.name]]
        with closing(open_source(self.source)) as source:
            if source.live:
                raise UsageError(
                    f"{source.name} is live: its own rate would be measured, not the pipeline's.",
                    hint="Give a video file or a folder of images.",
                )
            image = None
            for row in rows:
                following = source.read(None)
                image = image if following is None else following
                if image is None:
                    raise SourceError(f"{source.name} has no frames.")
                preprocessor(image, row)
        self.pipeline(_WARM_UP)
        self.engine(_WARM_UP)

    def round(self, frames: int, *, engine_first: bool) -> Round:
        """One pass each; the pipeline's own count of frames is what the engine then does as well."""
        if engine_first:
            fps, cpu = self.engine(frames)
            report = self.pipeline(frames)
        else:
            report = self.pipeline(frames)
            fps, cpu = self.engine(report.frames)
        return Round(report, fps, self.latency(min(frames, _LATENCY_RUNS)), cpu, self.decoding(report.frames))

    def pipeline(self, frames: int) -> Report:
        """Capture to overlay and JSON lines, everything on."""
        overlay = Overlay(self.spec.classes, caption=self.spec.model)
        # something that looks at pixels, as a window or a video does: without it nothing is drawn
        sinks = [JsonLines(self.lines), Callback(lambda frame, result: None)]
        pipeline = Pipeline(open_source(self.source), self.predictor, sinks, overlay=overlay, limit=frames)
        report = pipeline.run()
        if report.interrupted:
            raise KeyboardInterrupt  # the pipeline ends well on Ctrl-C; the measurement must end as well
        return report

    def engine(self, images: int) -> tuple[float, float]:
        """The engine alone, with as many requests in flight as the pipeline has.

        Returns images per second, and CPU milliseconds an image.
        """
        runs = max(-(-images // self.predictor.batch), len(self.requests))
        began, cpu = time.perf_counter(), time.process_time()
        for request in self.requests:
            request.start()
        for request in _cycle(self.requests, runs - len(self.requests)):
            request.wait()
            request.start()
        for request in _cycle(self.requests, len(self.requests), skip=runs):
            request.wait()
        done = runs * self.predictor.batch
        return done / (time.perf_counter() - began), 1e3 * (time.process_time() - cpu) / done

    def decoding(self, frames: int) -> float:
        """CPU milliseconds a frame of decoding alone: nothing is converted to BGR or handed on."""
        count = 0
        with closing(open_source(self.source)) as source:
            began = time.process_time()  # opening is not a frame's
            while count < frames and source.grab():
                count += 1
            cpu = time.process_time() - began
        return 1e3 * cpu / max(1, count)

    def latency(self, runs: int) -> Timing:
        """Of one request at a time, from start to outputs ready."""
        times = Histogram()
        for request in _cycle(self.requests, runs):
            began = time.perf_counter()
            request.start()
            request.wait()
            times.add(time.perf_counter() - began)
        return times.timing()

    def measured(self, rounds: tuple[Round, ...]) -> Measured:
        """The rounds with what they were measured on."""
        p = self.predictor
        return Measured(
            self.path,
            self.spec.model,
            self.spec.precision,
            self.library,
            p.name,
            self.spec.input.size,
            p.batch,
            p.streams,
            p.in_flight,
            rounds,
        )


def _cycle(items: Sequence[Any], count: int, *, skip: int = 0) -> Iterator[Any]:
    """`count` items in turn, from item number `skip` on."""
    for i in range(skip, skip + count):
        yield items[i % len(items)]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)
