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

Beside the throughputs stands the time of one image at a time, from its pixels to its results, step by step,
with and without the proposals that come from outside the network: published clocks differ in that.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from edgedet.bench.figures import Measured, OneImage, Round
from edgedet.contract.errors import SourceError, UsageError
from edgedet.contract.frames import Frame, Image
from edgedet.runtime.opencv_threads import one_opencv_thread
from edgedet.runtime.pipeline import Pipeline
from edgedet.runtime.predictor import TIMEOUT, CpuPredictor, open_predictor
from edgedet.runtime.request_slot import RequestSlot
from edgedet.runtime.sinks.overlay import Overlay
from edgedet.runtime.sinks.sink import Callback, JsonLines
from edgedet.runtime.sources.source import Source, open_source
from edgedet.runtime.stats import Histogram, Report, Timing

_WARM_UP = 10
_WARM_UP_SECONDS = 5.0
_LATENCY_RUNS = 30
_FEWEST = 3  # frames of a pass, however slow the model


def measure(
    models: Sequence[tuple[Path, str]],
    source: str | Callable[[], Source],
    *,
    frames: int,
    rounds: int,
    seconds: float = math.inf,
    streams: int = 1,
    threads: int | None = None,
    precision: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Measure models, each a file and the engine that runs it.

    `source` (what `open_source` takes, or what opens one) must be readable again from its start (a video
    file, images); a pass takes `frames` of it, fewer where it is shorter, or where a model is so slow that
    they would take more than `seconds`. `threads`, `streams` and `precision` are those of `open_engine`.
    `progress` is told what was measured, once per model and round.

    Raises:
        UsageError: a live source. The errors of opening models and sources.
    """
    opened: Callable[[], Source] = source if callable(source) else partial(open_source, source)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "results.jsonl"
        images = first_images(opened, _LATENCY_RUNS)
        subjects = []
        for path, library in models:
            predictor = stack.enter_context(
                open_predictor(path, engine=library, threads=threads, streams=streams, precision=precision)
            )
            subjects.append(_Subject(path, library, predictor, opened, images, lines))
        for subject in subjects:
            subject.prepare(frames, seconds)
        done: list[list[Round]] = [[] for _ in subjects]
        for number in range(rounds):
            for subject, results in zip(subjects, done, strict=True):
                results.append(subject.round(engine_first=number % 2 == 1))
                progress(f"{subject.path.name} on {subject.library}")
        return [s.measured(tuple(r)) for s, r in zip(subjects, done, strict=True)]


def first_images(opened: Callable[[], Source], count: int) -> list[Image]:
    """The first frames of the source, decoded; UsageError if it is live, SourceError if it has none."""
    with closing(opened()) as source:
        if source.live:
            raise UsageError(
                f"{source.name} is live: its own rate would be measured, not the pipeline's.",
                hint="Give a video file or a folder of images.",
            )
        images: list[Image] = []
        while len(images) < count and (image := source.read(None)) is not None:
            images.append(image)
        if not images:
            raise SourceError(f"{source.name} has no frames.")
        return images


class _Subject:
    """One opened model, and how it is driven."""

    def __init__(
        self,
        path: Path,
        library: str,
        predictor: CpuPredictor,
        opened: Callable[[], Source],
        images: Sequence[Image],
        lines: Path,
    ) -> None:
        self.path = path
        self.library = library
        self.predictor = predictor
        self.opened = opened
        self.images = images
        self.lines = lines
        self.spec = predictor.spec
        self.frames = _FEWEST
        engine, batch = predictor.engine, predictor.batch
        self.slots = [RequestSlot(engine.request(batch), self.spec) for _ in range(predictor.in_flight)]

    def prepare(self, frames: int, seconds: float) -> None:
        """Fill the requests with frames of the source, let caches and allocators settle, and see how many
        of `frames` a pass of so many seconds has.
        """
        batch = self.predictor.batch
        given = _cycle(self.images, batch * len(self.slots))
        for slot in self.slots:
            slot.fill([Frame(next(given)) for _ in range(batch)], {})
        each = self.one_image(2).whole / 1e3
        warm_up = max(1, int(min(_WARM_UP, _WARM_UP_SECONDS / each)))
        self.pipeline(warm_up)
        self.engine(warm_up)
        self.frames = max(_FEWEST, int(min(frames, seconds / each)))

    def round(self, *, engine_first: bool) -> Round:
        """One pass each; the pipeline's own count of frames is what the engine then does as well."""
        if engine_first:
            fps, cpu = self.engine(self.frames)
            report = self.pipeline(self.frames)
        else:
            report = self.pipeline(self.frames)
            fps, cpu = self.engine(report.frames)
        runs = min(self.frames, _LATENCY_RUNS)
        decoding = self.decoding(report.frames)
        return Round(report, fps, self.latency(runs), cpu, decoding, self.one_image(runs))

    def pipeline(self, frames: int) -> Report:
        """Capture to overlay and JSON lines, everything on."""
        overlay = Overlay(self.spec.classes, caption=self.spec.model)
        # something that looks at pixels, as a window or a video does: without it nothing is drawn
        sinks = [JsonLines(self.lines), Callback(lambda frame, result: None)]
        pipeline = Pipeline(self.opened(), self.predictor, sinks, overlay=overlay, limit=frames)
        report = pipeline.run()
        if report.interrupted:
            raise KeyboardInterrupt  # the pipeline ends well on Ctrl-C; the measurement must end as well
        return report

    def engine(self, images: int) -> tuple[float, float]:
        """The engine alone, with as many requests in flight as the pipeline has.

        Returns images per second, and CPU milliseconds an image.
        """
        runs = max(-(-images // self.predictor.batch), len(self.slots))
        began, cpu = time.perf_counter(), time.process_time()
        for slot in self.slots:
            slot.start()
        for slot in _cycle(self.slots, runs - len(self.slots)):
            slot.wait(TIMEOUT)
            slot.start()
        for slot in _cycle(self.slots, len(self.slots), skip=runs):
            slot.wait(TIMEOUT)
        done = runs * self.predictor.batch
        return done / (time.perf_counter() - began), 1e3 * (time.process_time() - cpu) / done

    def decoding(self, frames: int) -> float:
        """CPU milliseconds a frame of decoding alone: nothing is converted to BGR or handed on."""
        count = 0
        with closing(self.opened()) as source:
            began = time.process_time()  # opening is not a frame's
            while count < frames and source.grab():
                count += 1
            cpu = time.process_time() - began
        return 1e3 * cpu / max(1, count)

    def latency(self, runs: int) -> Timing:
        """Of one request at a time, from start to outputs ready."""
        times = Histogram()
        for slot in _cycle(self.slots, runs):
            began = time.perf_counter()
            slot.start()
            slot.wait(TIMEOUT)
            times.add(time.perf_counter() - began)
        return times.timing()

    def one_image(self, count: int) -> OneImage:
        """`count` images, each from its pixels to its results before the next begins."""
        whole, without = [], []
        steps: dict[str, list[float]] = {name: [] for name in self.predictor.stages}
        with one_opencv_thread():  # as in the pipeline
            for image in _cycle(self.images, count):
                began = time.perf_counter()
                ticket = self.predictor.submit([Frame(image)])
                self.predictor.collect(ticket)
                seconds = time.perf_counter() - began
                whole.append(seconds)
                without.append(seconds - ticket.times.get("proposals", 0.0))
                for name, taken in steps.items():
                    taken.append(ticket.times[name])
        return OneImage(count, _ms(whole), _ms(without), {name: _ms(taken) for name, taken in steps.items()})

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


def _ms(seconds: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return round(1e3 * median(seconds), 4)
