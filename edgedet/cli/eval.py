"""`edgedet-eval`: the accuracy of models, side by side."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from edgedet.contract.errors import UsageError
from edgedet.contract.proposals import cached
from edgedet.contract.text import printable
from edgedet.data import Problems, open_dataset
from edgedet.data.one_object import with_one_object
from edgedet.evaluation import (
    LocalisationMetrics,
    Metrics,
    ModelUnderTest,
    SegmentationMetrics,
    engine_under_test,
    evaluate_localisation,
    evaluate_semantic,
)
from edgedet.evaluation import evaluate as evaluate_boxes
from edgedet.evaluation.evaluate import spread

if TYPE_CHECKING:
    from rich.table import Table

EngineName = Literal["auto", "openvino", "onnxruntime", "torch"]
Measured: TypeAlias = Metrics | SegmentationMetrics | LocalisationMetrics
PrecisionName = Literal["fp32", "bf16", "exact"]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="ONNX files, checkpoints (.safetensors), or names of shipped models."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="voc:PATH, coco:FILE.json, coco:FOLDER or yolo:PATH; masks:PATH or voc-seg:PATH for a class"
            " per pixel."
        ),
    ],
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "val",
    engine: Annotated[
        EngineName, typer.Option(help="What runs the ONNX files; torch runs checkpoints.")
    ] = "auto",
    precision: Annotated[
        PrecisionName | None,
        typer.Option(
            help="exact: ONNX files as they are written, without INT8 kernels, the same on every CPU"
            " (onnxruntime; slow).",
            show_default="the engine's",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only this many images, evenly spread.", show_default="all")
    ] = None,
    iou: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Overlap at which VOC's AP counts an object as found.")
    ] = 0.5,
    trimap: Annotated[
        list[int] | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Also the IoU this near to boundaries; may be repeated (masks)."
        ),
    ] = None,
    proposals_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the regions proposed in each image, for models that take them and for the"
            " next time.",
            show_default="none: proposed anew",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show every class.")] = False,
) -> None:
    """Measure AP (VOC's 11-point and every-point, COCO's), or IoU and Dice where the data is masks.

    Of a localizer: the mean IoU of its box on the images with one object. Several models are shown side by
    side.

    Example: edgedet-eval yolo.onnx yolo-int8.onnx --data voc:VOCdevkit --per-class

    Example: edgedet-eval unet.onnx unet-int8.onnx --data masks:CamVid --split test --trimap 3
    """
    dataset = open_dataset(data, split)
    if trimap and not dataset.semantic:
        raise UsageError(f"--trimap is for masks; {dataset.name} has none.")
    said: dict[str, None] = {}
    images: set[Path] = set()

    def measure(predict: ModelUnderTest) -> Measured:
        data = with_one_object(dataset) if predict.task == "localisation" and dataset.labelled else dataset
        looked_at = data.part(spread(len(data), limit))
        images.update(t.path for t in looked_at.truths)
        # before the first image, because it may take long
        if (left := looked_at.left_out()) and left not in said:
            said[left] = None
            typer.echo(printable(f"data  {dataset.name}: {left}"), err=True)
        if dataset.semantic:
            return evaluate_semantic(predict, dataset, limit=limit, trimaps=trimap or ())
        if predict.task == "localisation":
            return evaluate_localisation(predict, dataset, limit=limit)
        return evaluate_boxes(predict, dataset, limit=limit, iou=iou)

    results: dict[str, Measured] = {}
    for name, model in zip(labels(models), models, strict=True):
        with opened(model, engine, precision, proposals_cache) as predict:
            results[name] = measure(predict)
    problems = dataset.problems if limit is None else dataset.problems.only(lambda p: p.image in images)
    if json_output:
        found = [{"model": name, **json.loads(m.to_json())} for name, m in results.items()]
        listed = {"counts": problems.counts(), "list": [str(p) for p in problems.items]}
        typer.echo(json.dumps({"results": found, "problems": listed}))
    else:
        show(results, problems, per_class=per_class)


@contextlib.contextmanager
def opened(
    model: str, engine: str, precision: str | None = None, proposals_cache: Path | None = None
) -> Iterator[ModelUnderTest]:
    """The predictor of an ONNX file, a checkpoint or a shipped model; closed at the end of the block.

    proposals_cache: keeps what is proposed, for models that take proposals.

    Raises:
        UsageError: an engine that cannot run this kind of file. WeightsError, EngineError, SpecError: a
            model that cannot be opened. UnknownName: neither a file nor a model's name.
    """
    path = Path(model)
    bare = not path.suffix and not path.exists() and path.name == model
    if bare or path.suffix == ".safetensors":
        if precision is not None:
            raise UsageError(
                f"--precision is for ONNX files, and {model!r} is a checkpoint: torch runs it in FP32.",
                hint="Export it first (edgedet-export), or leave --precision out.",
            )
        if engine not in ("auto", "torch"):
            raise UsageError(
                f"{engine} cannot run the checkpoint {model!r}.",
                hint="Export it first (edgedet-export), or use --engine torch.",
            )
        from edgedet.evaluation.predict_torch import torch_under_test
        from edgedet.training.checkpoint import load_model

        if bare:
            from edgedet.weights import find

            path = find(model)
        network, spec = load_model(path)
        yield torch_under_test(network, spec, proposer=cached(spec.proposals, proposals_cache))
        return
    if engine == "torch":
        raise UsageError(
            f"torch runs checkpoints (.safetensors), and {model} is none.",
            hint="Leave --engine out, or choose openvino or onnxruntime.",
        )
    from edgedet.runtime import open_engine

    if precision == "exact" and engine == "auto":
        engine = "onnxruntime"
    with open_engine(path, engine=engine, precision=precision) as opened_engine:
        proposer = cached(opened_engine.spec.proposals, proposals_cache)
        yield engine_under_test(opened_engine, proposer=proposer)


def labels(models: Sequence[str]) -> list[str]:
    """What each model is called: its file name, with as much of the path as tells them apart."""
    if len(set(models)) != len(models):
        raise UsageError("The same model is given twice.")
    for depth in range(1, max(len(Path(m).parts) for m in models) + 1):
        names = [str(Path(*Path(m).parts[-depth:])) for m in models]
        if len(set(names)) == len(names):
            return names
    return list(models)


def show(results: Mapping[str, Measured], problems: Problems, *, per_class: bool) -> None:
    """Tables on stdout; below them what a reader must know, and what was wrong with the images looked at."""
    from rich.console import Console

    from edgedet.evaluation import report

    # each kind of figures, and the tables that show it: (summary, by class)
    tables: dict[type[Measured], tuple[Callable[[Any], Table], Callable[[Any], Table]]] = {
        Metrics: (report.summary_table, report.class_table),
        SegmentationMetrics: (report.map_summary_table, report.map_class_table),
        LocalisationMetrics: (report.localisation_summary_table, report.localisation_class_table),
    }
    console = Console()
    for kind, (summary, by_class) in tables.items():
        mine = {name: m for name, m in results.items() if isinstance(m, kind)}
        if mine and per_class:
            console.print(by_class(mine), "")
        if mine:
            console.print(summary(mine))
    for name, m in results.items():
        if m.not_measured:
            console.print(
                printable(f"not measured  {name}: {m.not_measured}"),
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
    notes = dict.fromkeys(note for m in results.values() for note in m.notes)
    for note in notes:
        console.print(printable(f"note  {note}"), soft_wrap=True, highlight=False, markup=False)
    if len(problems):
        console.print(printable(f"data  {problems.summary()}; first:"), highlight=False, markup=False)
        for problem in problems.items[:3]:
            console.print(printable(f"      {problem}"), soft_wrap=True, highlight=False, markup=False)
