"""`edgedet-bench`: the speed of models here, beside the lecture's claims; all detectors compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedet.contract.errors import MissingDependency, UnknownName, UsageError
from edgedet.contract.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from edgedet.bench.compare import CompareOptions

_COLUMNS = 100
"""What is printed is no wider."""

_ALL = "With --all"
"""The heading of its options in the help."""


def bench(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL...", help="ONNX files that edgedet-export wrote.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="A video file, or a folder or glob of images.", show_default="with --all: images of --data"
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="openvino, onnxruntime; may be repeated.",
            show_default="all installed; with --all: the first of them",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=10, help="Frames per pass.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Passes; that with the median ratio is reported.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [default: the engine's choice]")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Inferences at the same time.",
            show_default="edgedet-run's for files; with --all: its 1 for cameras",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16 (OpenVINO) for what is not quantised. [default: fp32]")
    ] = None,
    save_json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the report: .png, .svg or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON only.")] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Compare all detectors that have weights: accuracy, speed, size.",
            rich_help_panel=_ALL,
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="What AP is measured on: voc:, coco: or yolo:PATH.", rich_help_panel=_ALL),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The split of it.", show_default="val", rich_help_panel=_ALL)
    ] = None,
    mask_data: Annotated[
        str | None,
        typer.Option(help="What mask AP is measured on: instances: or coco:PATH.", rich_help_panel=_ALL),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A checkpoint of edgedet-train; may be repeated.",
            show_default="the shipped weights",
            rich_help_panel=_ALL,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Only this many images, evenly spread.", show_default="all", rich_help_panel=_ALL
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder for exports (earlier ones of the same weights are used again) and for"
            " comparison.md, .json and .svg.",
            show_default="out",
            rich_help_panel=_ALL,
        ),
    ] = None,
) -> None:
    """Measure models here, engine alone and whole pipeline in turns, beside the lecture's claims.

    Every figure comes with its hardware, its batch and what its clock covers. Give the FP32 and the INT8
    file of a model to see what INT8 brings. --all compares the detectors, and exports them first.

    Example: edgedet-bench yolo.onnx yolo-int8.onnx --source bikes.mp4 --picture fps.png

    Example: edgedet-bench --all --data voc:VOCdevkit/VOC2007 -o out
    """
    only_with_all = {
        "--data": data,
        "--split": split,
        "--mask-data": mask_data,
        "--weights": weights,
        "--limit": limit,
        "--output": output,
    }
    if every:
        if models:
            raise UsageError(
                f"--all takes no files, got {models[0]}.",
                hint="It exports what has weights; leave out either.",
            )
        if data is None:
            raise UsageError(
                "--all needs data to measure accuracy on.",
                hint="Give --data voc:PATH, coco:PATH or yolo:PATH.",
            )
        from edgedet.bench.artifacts import parse_weights
        from edgedet.bench.compare import CompareOptions

        options = CompareOptions(
            data=data,
            output=output or Path("out"),
            engines=engine_names(engine) if engine else engine_names(None)[:1],
            split=split or "val",
            mask_data=mask_data,
            weights=parse_weights(weights or ()),
            limit=limit,
            source=source,
            frames=frames,
            rounds=rounds,
            threads=threads,
            streams=streams or 1,
            precision=precision,
        )
        _compare(options, save_json, picture, json_output=json_output)
        return
    for name, value in only_with_all.items():
        if value is not None:
            raise UsageError(f"{name} is for --all.", hint="Add --all, or leave it out.")
    if not models:
        raise UsageError("Missing argument 'MODEL...'.", hint="Give ONNX files, or --all.")
    if source is None:
        raise UsageError(
            "Missing option '--source'.", hint="Give a video file, or a folder or glob of images."
        )
    _measure(
        models,
        source,
        engine_names(engine),
        frames=frames,
        rounds=rounds,
        threads=threads,
        streams=streams,
        precision=precision,
        save_json=save_json,
        picture=picture,
        json_output=json_output,
    )


def _measure(
    models: list[Path],
    source: str,
    engines: list[str],
    *,
    frames: int,
    rounds: int,
    threads: int | None,
    streams: int | None,
    precision: str | None,
    save_json: Path | None,
    picture: Path | None,
    json_output: bool,
) -> None:
    """The speed of files."""
    from functools import partial
    from itertools import product

    from rich.console import Console

    from edgedet.bench.figures import gains
    from edgedet.bench.measure import measure
    from edgedet.bench.rcnn_parts import parts_of
    from edgedet.bench.report import SpeedReport
    from edgedet.contract.files import write_atomic
    from edgedet.runtime import hardware
    from edgedet.runtime.hardware import streams_for
    from edgedet.runtime.sinks.outputs import check_outputs
    from edgedet.runtime.sources.source import open_source

    written = {"--save-json": save_json, "--picture": picture}
    outputs = {name: path for name, path in written.items() if path is not None}
    check_outputs(outputs, {"the model": models, "--source": [source]})
    if picture is not None:
        import edgedet.bench.picture  # a missing matplotlib is said before minutes of measuring

        edgedet.bench.picture.check_kind(picture)

    console = Console(stderr=True, quiet=json_output)
    with _bar(console) as bar:
        task = bar.add_task("", total=rounds * len(models) * len(engines))
        results = measure(
            list(product(models, engines)),
            source,
            frames=frames,
            rounds=rounds,
            threads=threads,
            streams=streams or streams_for(live=False),
            precision=precision,
            progress=lambda what: bar.update(task, advance=1, description=printable(what)),
        )
    parts = parts_of(models, partial(open_source, source))
    report = SpeedReport(
        hardware.cpu(),
        hardware.memory_gib(),
        results[0].middle.pipeline.source,
        results[0].middle.pipeline.frames,
        threads,
        results,
        gains(results),
        parts,
    )
    text = json.dumps(report.to_json(), indent=2)
    out = Console(stderr=json_output, soft_wrap=True, highlight=False, markup=False)
    try:
        if json_output:
            typer.echo(text)
        else:
            report.show(_paper(out))
    finally:
        # shown and saved, each even if the other fails: a full disk, a reader that went away
        if save_json is not None:
            write_atomic(save_json, text + "\n")
        if picture is not None:
            edgedet.bench.picture.draw(report, picture)
    for path in (save_json, picture):
        if path is not None:
            out.print(f"wrote {path}")


def _compare(
    options: CompareOptions, save_json: Path | None, picture: Path | None, *, json_output: bool
) -> None:
    """All detectors. Exit code 1 where one that has weights could not be measured."""
    from rich.console import Console

    from edgedet.bench.compare import compare
    from edgedet.bench.comparison_picture import draw_comparison  # a missing matplotlib is said now
    from edgedet.bench.comparison_report import markdown, show
    from edgedet.bench.picture import check_kind
    from edgedet.contract.files import write_atomic
    from edgedet.export.console import LabelledConsole
    from edgedet.runtime.sinks.outputs import check_outputs

    save_json = save_json or options.output / "comparison.json"
    picture = picture or options.output / "comparison.svg"
    document = options.output / "comparison.md"
    outputs = {"--save-json": save_json, "--picture": picture, "--output": document}
    given = [options.source] if options.source else []
    check_outputs(outputs, {"--weights": list(options.weights.values()), "--source": given})
    check_kind(picture)

    found = compare(options, LabelledConsole(Console(stderr=True), quiet=json_output))
    text = json.dumps(found.to_json(), indent=2)
    out = Console(stderr=json_output, soft_wrap=True, highlight=False, markup=False)
    try:
        if json_output:
            typer.echo(text)
        else:
            show(found, _paper(out))
    finally:
        write_atomic(save_json, text + "\n")
        write_atomic(document, markdown(found))
        draw_comparison(found, picture)
    for path in (document, save_json, picture):
        out.print(f"wrote {path}")
    if any(m.failed for m in found.missing):
        raise typer.Exit(1)


def _paper(out: Console) -> Console:
    """What tables are printed on: as wide as the terminal, and no wider than `_COLUMNS`."""
    from rich.console import Console

    return Console(width=min(out.width, _COLUMNS) if out.is_terminal else _COLUMNS, markup=False)


def _bar(console: Console) -> Progress:
    """A progress bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def engine_names(asked: list[str] | None) -> list[str]:
    """The engines to measure: those asked for, else all that are installed."""
    from edgedet.runtime.engines.engine import ENGINES

    for name in asked or []:
        if name not in ENGINES:
            raise UnknownName("engine", name, ENGINES)
    found = asked or [name for name, backend in ENGINES.items() if backend.installed]
    if not found:
        raise MissingDependency("OpenVINO or ONNX Runtime", extra="cpu", purpose="Measuring a model")
    return found
