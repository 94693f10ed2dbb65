"""`edgedet-bench --all`: every detector that has weights, on the same data and machine, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from edgedet.bench.artifacts import Artifact, Exports, Missing, Weights, find_weights
from edgedet.bench.comparison import Compared, Comparison
from edgedet.bench.measure import measure
from edgedet.bench.rcnn_parts import parts_of
from edgedet.bench.scores import PROPOSALS, Score, Scores
from edgedet.contract.errors import DataError, EdgedetError, EmptyDataset, ImageError, WeightsError
from edgedet.data import Dataset, open_dataset
from edgedet.evaluation.evaluate import spread
from edgedet.export.accuracy import fewer
from edgedet.export.console import LabelledConsole
from edgedet.runtime import hardware
from edgedet.runtime.sources.image import Images
from edgedet.runtime.sources.source import Source, open_source


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how; `edgedet-bench --help` says what each means.

    seconds: a pass takes no longer, so that a slow detector sees fewer frames.
    """

    data: str
    output: Path
    engines: Sequence[str]
    split: str = "val"
    mask_data: str | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    source: str | None = None
    frames: int = 100
    rounds: int = 5
    seconds: float = 10.0
    threads: int | None = None
    streams: int = 1
    precision: str | None = None


def compare(options: CompareOptions, console: LabelledConsole) -> Comparison:
    """Export what is not there yet, measure accuracy and speed, and put them beside each other.

    What cannot be exported or measured is in `Comparison.missing`; the rest goes on.

    Args:
        console: where it says what it does, and exports what they do.

    Raises:
        WeightsError: no detector has weights, or those given cannot be used. DataError: the data cannot be
            used. The first error of the detectors, where none could be measured. As `measure`.
    """
    weights, missing = find_weights(options.weights)
    if not weights:
        raise WeightsError("No detector has weights.", hint="Give some: --weights NAME=FILE.")
    whole = _with_boxes(open_dataset(options.data, options.split))
    masks = _with_masks(open_dataset(options.mask_data, options.split)) if options.mask_data else None
    data = fewer(whole, options.limit)
    mask_data = fewer(masks, options.limit) if masks else None
    opened = _source(options.source, data, options.frames, whole.name)

    made = _artifacts(options, weights, tuple(d for d in (whole, masks) if d), console, missing)
    scored = _scores(options, made, data, mask_data, console, missing)
    subjects = [(a.file, a.library) for a, _, _ in scored]
    console.line("speed", f"{len(subjects)} files, {options.rounds} rounds in turns")
    done = count(1)
    with console.bar("speed", len(subjects) * options.rounds) as advance:
        speeds = measure(
            subjects,
            opened,
            frames=options.frames,
            rounds=options.rounds,
            seconds=options.seconds,
            streams=options.streams,
            threads=options.threads,
            precision=options.precision,
            progress=lambda _: advance(next(done)),
        )
    parts = parts_of(dict.fromkeys(a.file for a, _, _ in scored), opened)
    rows = [
        Compared(a, speed, score, with_masks)
        for (a, score, with_masks), speed in zip(scored, speeds, strict=True)
    ]
    return Comparison(
        cpu=hardware.cpu(),
        memory_gib=hardware.memory_gib(),
        threads=options.threads,
        data=whole.name,
        images=max(r.score.images for r in rows),
        mask_data=mask_data.name if mask_data else "",
        source=speeds[0].middle.pipeline.source,
        frames=options.frames,
        seconds=options.seconds,
        rows=tuple(rows),
        missing=tuple(missing),
        parts=parts,
    )


def _artifacts(
    options: CompareOptions,
    weights: Mapping[str, Weights],
    opened: tuple[Dataset, ...],
    console: LabelledConsole,
    missing: list[Missing],
) -> list[Artifact]:
    """The files of every detector on every engine, a folder for each engine where there are several."""
    found: list[Artifact] = []
    first: EdgedetError | None = None
    for library in options.engines:
        folder = options.output / library if len(options.engines) > 1 else options.output
        kept = options.output / PROPOSALS
        exports = Exports(folder, options.data, options.mask_data, options.limit, opened, kept, console)
        for name, of in weights.items():
            try:
                artifacts, refused = exports.of(of, library)
            except EdgedetError as e:
                first = first or e
                missing.append(Missing(name, f"could not be exported for {library}: {e}", failed=True))
                continue
            found += artifacts
            missing += refused
    if not found and first is not None:
        raise first
    return found


def _scores(
    options: CompareOptions,
    artifacts: Sequence[Artifact],
    data: Dataset,
    mask_data: Dataset | None,
    console: LabelledConsole,
    missing: list[Missing],
) -> list[tuple[Artifact, Score, Score | None]]:
    """The accuracy of each, and on data with masks of what gives some."""
    scores = Scores(
        options.output, threads=options.threads, precision=options.precision, progress=console.bars
    )
    found = []
    for a in artifacts:
        what = f"{a.spec.model}, {a.spec.precision.upper()}, {a.library}"
        console.line("accuracy", f"{what} on {data.name}")
        try:
            score = scores.of(a, data)
            masks = scores.of(a, mask_data) if mask_data and a.spec.task == "instance" else None
        except EdgedetError as e:
            missing.append(Missing(what, f"accuracy: {e}", failed=True))
            continue
        found.append((a, score, masks))
    if not found:
        raise DataError(f"No detector could be measured; the first: {missing[-1].what}: {missing[-1].why}")
    return found


def _with_boxes(data: Dataset) -> Dataset:
    if data.labelled and not data.semantic:
        return data
    raise DataError(
        f"{data.name} has no boxes to compare detectors on.", hint="Give --data voc:, coco: or yolo: data."
    )


def _with_masks(data: Dataset) -> Dataset:
    if any(t.masks is not None for t in data.truths):
        return data
    raise DataError(
        f"{data.name} has no mask for each object.", hint="Give --mask-data instances:PATH or coco:PATH."
    )


def _source(named: str | None, data: Dataset, frames: int, name: str) -> Callable[[], Source]:
    """What opens the frames that speed is measured on: those named, else images spread over the data."""
    if named is not None:
        return partial(open_source, named)
    paths = []
    for i in spread(len(data), frames):
        try:
            data.image(i)
        except ImageError:
            continue  # a source that loses a frame ends with an error
        paths.append(data.truths[i].path)
    if not paths:
        raise EmptyDataset(f"No image of {data.name} can be read.")
    return partial(Images, paths, name=f"{len(paths)} images of {name}")
