"""`edgedet-export`: from a checkpoint to what runs at the edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedet.contract.errors import UsageError
from edgedet.models import parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from edgedet.export.report import ExportReport


def export(
    model: Annotated[str, typer.Option(help="The model's name.")] = "yolo",
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint of edgedet-train.", show_default="the shipped weights")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size.", show_default="the checkpoint's")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Float16, written into the graph's types.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8 with explicit Q/DQ.")] = False,
    target: Annotated[
        str, typer.Option(help="auto, openvino, onnxruntime, tensorrt-rtx or tensorrt.")
    ] = "auto",
    sm: Annotated[
        str, typer.Option(help="GPUs to build the plan for, by compute capability x 10 (tensorrt-rtx).")
    ] = "86,89,120",
    calib_data: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate on: voc:, coco:, yolo:, masks:, voc-seg: or folder:PATH.",
            show_default="the calibration shipped with the weights",
        ),
    ] = None,
    calib_cache: Annotated[Path | None, typer.Option(help="A calibration made before.")] = None,
    calib_images: Annotated[int, typer.Option(min=1, help="How many images to calibrate on.")] = 500,
    calib_method: Annotated[
        str, typer.Option(help="How ranges are chosen: mse, percentile, minmax.")
    ] = "mse",
    eval_data: Annotated[
        str | None,
        typer.Option(
            help="What the gate measures on: voc:, coco: or yolo: data for AP, masks: or voc-seg: data for"
            " mIoU; folder:PATH or a video for agreement with FP32.",
            show_default="images held out from --calib-data",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, help="Points of AP or mIoU that may be lost.")
    ] = 0.5,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of agreement wanted where there is no truth.")
    ] = 90.0,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Show which layers cost most in INT8.")
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep what the gate refused, as NAME-failed.")
    ] = False,
    accept_unmeasured: Annotated[
        bool,
        typer.Option("--accept-unmeasured", help="Write it even where the gate has nothing to measure on."),
    ] = False,
    proposals_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the regions proposed in each image, for models that take them and for the"
            " next time.",
            show_default="none: kept for this export alone",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path(),
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a model: ONNX, checked against the eager model; FP16 or INT8 for a target; a TensorRT plan.

    Exit code 3: the INT8 or FP16 model lost more accuracy than allowed, or nothing could be measured, and
    it was not written.

    Example: edgedet-export --model yolo --int8 --calib-data voc:VOCdevkit --eval-data voc:VOCdevkit -o out
    """
    if fp16 and int8:
        raise UsageError("--fp16 and --int8 exclude each other.", hint="Export twice.")
    from edgedet.models import entry

    entry(model)  # an unknown name is said before torch is loaded

    from rich.console import Console

    from edgedet.export.console import LabelledConsole
    from edgedet.export.job import run
    from edgedet.export.options import ExportOptions

    console = Console()
    report = run(
        ExportOptions(
            model=model,
            output=output,
            weights=weights,
            size=parse_size(size),
            precision="int8" if int8 else "fp16" if fp16 else "fp32",
            target=target,
            sms=parse_sms(sm),
            calib_data=calib_data,
            calib_cache=calib_cache,
            calib_images=calib_images,
            calib_method=calib_method,
            eval_data=eval_data,
            max_drop=max_drop,
            min_agreement=min_agreement,
            sensitivity=sensitivity,
            keep_failed=keep_failed,
            accept_unmeasured=accept_unmeasured,
            proposals_cache=proposals_cache,
        ),
        LabelledConsole(console, quiet=json_output),
    )
    if json_output:
        typer.echo(report.to_json(), nl=False)
    else:
        show(report, console, output)
    if report.verdict is not None:
        report.verdict.require(report.precision.upper(), unmeasured=accept_unmeasured)


def show(report: ExportReport, console: Console, output: Path) -> None:
    """The table, why something was not measured, what was written, and what to type next."""
    from rich.padding import Padding

    from edgedet.export.console import LabelledConsole

    lines = LabelledConsole(console)
    console.print(Padding(report.table(), (0, 0, 0, 2)), highlight=False)
    for layer, gain in report.sensitivity[:8]:
        lines.line("layer", f"{gain:+.2f} dB in float  {layer}")
    for note in report.notes:
        lines.line("note", note)
    lines.line("wrote", "  ".join(str(output / name) for name in report.wrote))
    runnable = [n for n in report.wrote if n.endswith(".onnx") and "-failed" not in n]
    if report.target in ("openvino", "onnxruntime"):
        lines.line("next", f"edgedet-run {output / runnable[-1]} --source 0")


def parse_sms(text: str) -> tuple[int, ...]:
    """Targets: "86,89" -> (86, 89), without repetitions. UsageError if it is no list of numbers."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.replace(".", "").split(",")))
    except ValueError:
        raise UsageError(f"--sm {text!r} is no list of GPUs.", hint="For example --sm 86,89,120.") from None
