"""`edgedet-bench`: the speed of models on this machine, beside the lecture's claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgedet.contract.errors import MissingDependency, UnknownName
from edgedet.contract.text import printable

_COLUMNS = 100
"""What is printed is no wider."""


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files that edgedet-export wrote.")],
    source: Annotated[str, typer.Option(help="A video file, or a folder or glob of images.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="openvino, onnxruntime; may be repeated. [default: all installed]"),
    ] = None,
    frames: Annotated[int, typer.Option(min=10, help="Frames per pass.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Passes; that with the median ratio is reported.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [default: the engine's choice]")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, help="Inferences at the same time. [default: edgedet-run's for files]"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16 (OpenVINO) for what is not quantised. [default: fp32]")
    ] = None,
    save_json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the report: .png, .svg or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON only.")] = False,
) -> None:
    """Measure models here, engine alone and whole pipeline in turns, beside the lecture's claims.

    Every figure comes with its hardware, its batch and what its clock covers. Give the FP32 and the INT8
    file of a model to see what INT8 brings.

    Example: edgedet-bench yolo.onnx yolo-int8.onnx --source bikes.mp4 --picture fps.png
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from edgedet.bench.measure import gains, measure
    from edgedet.bench.report import SpeedReport
    from edgedet.contract.files import write_atomic
    from edgedet.runtime import hardware
    from edgedet.runtime.hardware import streams_for
    from edgedet.runtime.sinks.outputs import check_outputs

    written = {"--save-json": save_json, "--picture": picture}
    outputs = {name: path for name, path in written.items() if path is not None}
    check_outputs(outputs, {"the model": models, "--source": [source]})
    if picture is not None:
        import edgedet.bench.picture  # a missing matplotlib is said before minutes of measuring

        edgedet.bench.picture.check_kind(picture)

    engines = _engines(engine)
    console = Console(stderr=True, quiet=json_output)
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=rounds * len(models) * len(engines))
        results = measure(
            models,
            engines,
            source,
            frames=frames,
            rounds=rounds,
            threads=threads,
            streams=streams or streams_for(live=False),
            precision=precision,
            progress=lambda what: bar.update(task, advance=1, description=printable(what)),
        )
    report = SpeedReport(
        hardware.cpu(),
        hardware.memory_gib(),
        results[0].middle.pipeline.source,
        results[0].middle.pipeline.frames,
        threads,
        results,
        gains(results),
    )
    text = json.dumps(report.to_json(), indent=2)
    out = Console(stderr=json_output, soft_wrap=True, highlight=False, markup=False)
    try:
        if json_output:
            typer.echo(text)
        else:
            report.show(
                Console(width=min(out.width, _COLUMNS) if out.is_terminal else _COLUMNS, markup=False)
            )
    finally:
        # shown and saved, each even if the other fails: a full disk, a reader that went away
        if save_json is not None:
            write_atomic(save_json, text + "\n")
        if picture is not None:
            edgedet.bench.picture.draw(report, picture)
    for path in (save_json, picture):
        if path is not None:
            out.print(f"wrote {path}")


def _engines(asked: list[str] | None) -> list[str]:
    """The engines to measure: those asked for, else all that are installed."""
    from edgedet.runtime.engines.engine import ENGINES

    for name in asked or []:
        if name not in ENGINES:
            raise UnknownName("engine", name, ENGINES)
    found = asked or [name for name, backend in ENGINES.items() if backend.installed]
    if not found:
        raise MissingDependency("OpenVINO or ONNX Runtime", extra="cpu", purpose="Measuring a model")
    return found
