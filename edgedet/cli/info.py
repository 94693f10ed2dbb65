"""`edgedet info FILE`: what an artifact says of itself, read without loading weights or an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedet.contract.errors import DataError, SpecError, UsageError
from edgedet.contract.reading import open_regular
from edgedet.contract.spec import SPEC_KEY, ModelSpec, Tensor
from edgedet.contract.tensor_file import base_of, read_tensor_file
from edgedet.contract.text import printable
from edgedet.runtime.engines.engine import PLAN_SUFFIXES
from edgedet.runtime.engines.onnx_metadata import read_spec


@dataclass(frozen=True)
class Description:
    """What was found in a file: its kind, the spec if it has one, and other facts by name."""

    path: Path
    kind: str
    spec: ModelSpec | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def info(
    file: Annotated[
        Path, typer.Argument(help=".onnx, .safetensors, TensorRT plan (.engine, .plan, .trt) or .json cache.")
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as JSON only.")] = False,
) -> None:
    """Say what a model, weights or calibration file is, from what it carries.

    Nothing is executed or deserialized: a TensorRT plan of another machine can be read as well.

    Example: edgedet info yolo-int8.onnx
    """
    found = describe(file)
    if json_output:
        spec = json.loads(found.spec.to_json()) if found.spec else None
        head = {"file": str(file), "kind": found.kind, "bytes": file.stat().st_size}
        typer.echo(json.dumps(head | ({"spec": spec} if spec else {}) | found.facts, indent=2))
    else:
        show(found)


def describe(path: Path) -> Description:
    """Read what a file says of itself.

    Raises:
        DataError: there is no such file, or it cannot be read. UsageError: a kind of file that edgedet does
            not write.
        SpecError: no spec in it. EngineError, WeightsError, CalibrationError: it is damaged.
    """
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", hint="Check the path.") from None
    except (OSError, ValueError) as e:  # ValueError: a name with a zero byte
        reason = (e.strerror if isinstance(e, OSError) else None) or e
        raise DataError(f"Cannot read {path}: {reason}.", hint="Give a file that edgedet wrote.") from None
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path.name} is of a kind that edgedet does not write; it knows {', '.join(READERS)}."
        )
    return reader(path)


def _onnx(path: Path) -> Description:
    return Description(path, "ONNX model", read_spec(path))


def _plan(path: Path) -> Description:
    from edgedet.runtime.engines.plan_spec import read_plan_spec

    return Description(path, "TensorRT plan", read_plan_spec(path))


def _weights(path: Path) -> Description:
    header = read_tensor_file(path)
    if SPEC_KEY not in header.metadata:
        raise SpecError(
            f"{path} carries no edgedet spec: these are weights that edgedet did not write.",
            hint="Use a file that edgedet-train wrote (best.safetensors).",
        )
    facts = {
        "tensors": len(header.tensors),
        "values": sum(prod(shape) for _, shape in header.tensors.values()),
        "types": sorted({dtype for dtype, _ in header.tensors.values()}),
    }
    if (base := base_of(path, header.metadata)) is not None:
        facts["more_tensors"] = f"{len(base.tensors)} in {base.file}"
    return Description(path, "weights", ModelSpec.from_json(header.metadata[SPEC_KEY]), facts)


def _calibration(path: Path) -> Description:
    from edgedet.calib.scales import Scales

    scales = Scales.load(path)
    facts = {
        "graph": scales.graph,
        "data": scales.data,
        "images": scales.images,
        "method": scales.method,
        "settled_after": scales.settled,
        "tensors": len(scales.ranges),
        **{f"tensors_of_{name}": len(stage.ranges) for name, stage in scales.stages.items()},
    }
    return Description(path, "calibration cache", facts=facts)


READERS: dict[str, Callable[[Path], Description]] = {
    ".onnx": _onnx,
    ".safetensors": _weights,
    **dict.fromkeys(PLAN_SUFFIXES, _plan),
    ".json": _calibration,
}
"""File name ending -> how such a file is read."""


def show(found: Description) -> None:
    """The description as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {"file": f"{found.path} ({_bytes(found.path.stat().st_size)})", "kind": found.kind}
    rows |= _spec_rows(found.spec) if found.spec else {}
    rows |= {name.replace("_", " "): _text(value) for name, value in found.facts.items()}
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(printable(value)))
    Console(soft_wrap=True, highlight=False).print(table)


def _spec_rows(spec: ModelSpec) -> dict[str, str]:
    i, t, p = spec.input, spec.thresholds, spec.provenance
    batch = "any batch" if i.batch is None else f"batch {i.batch}"
    rows = {
        "model": f"{spec.model}, {spec.task}, {spec.precision}",
        "input": f"{i.name}: {i.width} wide x {i.height} high, {i.colour}, {i.dtype} {i.layout}, {i.resize},"
        f" {batch}",
        "normalised": f"(v/255 - {_floats(i.mean)}) / {_floats(i.std)}"
        + (", by the graph" if i.dtype == "uint8" else ""),
    }
    rows |= _tensors("also takes", spec.extra_inputs)
    if spec.proposals is not None:
        method = f"the best {spec.proposals.count} of {spec.proposals.method}"
        if spec.proposals.rows is not None:
            method += f", {spec.proposals.rows} a run"
        rows["proposals"] = f"{method} {_parameters(spec.proposals.parameters)}".strip()
    rows |= _tensors("output", spec.outputs)
    for stage in spec.stages:
        rows[f"then {stage.name}"] = stage.file
        rows |= _tensors(f"{stage.name} input", stage.inputs)
        rows |= _tensors(f"{stage.name} output", stage.outputs)
    rows |= {
        "decode": f"{spec.decode.kind} {_parameters(spec.decode.parameters)}".strip(),
        "classes": f"{len(spec.classes)}: {', '.join(spec.classes)}",
        "thresholds": ""
        if spec.task == "semantic"
        else f"score > {t.score:g}, IoU <= {t.iou:g}, best {t.pre_nms}, at most {t.max_detections}"
        + (", across classes" if t.class_agnostic else ""),
        "measured": ", ".join(f"{name} {value:.4f}" for name, value in spec.metrics.items()),
        "weights": p.weights_sha256,
        "trained on": p.data,
        "calibrated on": p.calibration,
        "made with": _text(dict(p.tools)),
        "build": _text(dict(spec.build)),
    }
    return rows


def _tensors(label: str, tensors: Sequence[Tensor]) -> dict[str, str]:
    """A row for each tensor."""
    rows = {}
    for n, t in enumerate(tensors):
        shape = " x ".join("N" if d is None else str(d) for d in t.shape)
        rows[label if n == 0 else f"{label} {n + 1}"] = f"{t.name}: {t.role}, {shape}, {t.dtype}"
    return rows


def _parameters(parameters: Mapping[str, Any]) -> str:
    """On one line: of a table only how large it is (--json has its numbers)."""
    return _text({name: _size(value) or value for name, value in parameters.items()})


def _size(value: Any) -> str:
    """Of lists in a list, for example "6 x 6 x 2 numbers"; "" of anything else."""
    sizes = []
    while isinstance(value, (list, tuple)) and value:
        sizes.append(str(len(value)))
        value = value[0]
    return f"{' x '.join(sizes)} numbers" if len(sizes) > 1 else ""


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _floats(values: tuple[float, ...]) -> str:
    """One number if all are the same, else all of them."""
    texts = [f"{v:.4g}" for v in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n} bytes"
