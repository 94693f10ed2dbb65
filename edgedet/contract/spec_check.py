"""That a ModelSpec says something possible: types first, then meaning.

Specs come out of files, and files are damaged, edited by hand, or written by somebody else. A spec is
refused here by name rather than believed and found out at the first frame.
"""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgedet.contract.errors import SpecError
from edgedet.contract.spec import MAP_KINDS, MAX_MAP_CLASSES, MAX_PRE_NMS, SPEC_VERSION, ModelSpec, Tensor

MAX_SIDE = 1 << 14
"""Pixels: the largest height or width of a network's input."""

MAX_ELEMENTS = 1 << 26
"""Values of one tensor and image: 256 MiB in float32."""

MAX_CLASSES = 1 << 16
MAX_DETECTIONS = 1 << 16
MAX_BATCH = 1 << 10
MAX_NAME = 256
"""Characters of a name."""

MAX_DEPTH = 16
"""Of a decoder's parameters, list in list."""

DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")
"""What tensors may hold, as numpy spells it."""

T = TypeVar("T")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass, evaluated once."""
    return get_type_hints(kind)


def build(kind: type[T], raw: object, where: str) -> T:
    """A dataclass from a JSON value, every field of the type that it is annotated with.

    Lists become tuples and whole numbers floats where floats are wanted; nothing else is converted.

    Raises:
        SpecError: a field is missing, unknown, or of another type; says which. `where` is its path.
    """
    if not isinstance(raw, dict):
        raise SpecError(f"{where} is {_short(raw)}, expected an object.")
    hints = _hints(kind)  # type: ignore[arg-type]
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(map(str, raw)) - set(known))
    if unknown:
        raise SpecError(
            f"{where} has unknown fields: {', '.join(map(_short, unknown[:5]))}.",
            hint="It was written by a newer edgedet: install that one.",
        )
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [n for n in required if n not in raw]
    if missing:
        raise SpecError(f"{where} has no field {', '.join(map(repr, missing))}.")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in raw.items()})


def _value(hint: Any, value: object, where: str) -> Any:
    """`value` as the annotation `hint` wants it; SpecError if it is something else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and isinstance(value, dict):  # an object, or nothing
        hint = next((a for a in arguments if is_dataclass(a)), hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) == len(arguments):
            pairs = zip(arguments, value, strict=True)
            return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    elif origin is Mapping and isinstance(value, dict):
        return {name: _value(arguments[1], v, f"{where}[{_short(name)}]") for name, v in value.items()}
    elif hint is float and type(value) in (int, float):
        try:
            return float(value)  # type: ignore[arg-type]
        except OverflowError:
            pass
    elif fits(hint, value):
        return value
    raise SpecError(f"{where} is {_short(value)}, expected {_name(hint)}.", hint="Export the model again.")


def fits(hint: Any, value: object) -> bool:
    """Whether a value is of the type that an annotation names. A bool is no number here."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        return any(fits(a, value) for a in arguments)
    if hint is float:
        return type(value) in (int, float)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(fits(arguments[0], v) for v in value)
        return len(value) == len(arguments) and all(map(fits, arguments, value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(arguments[0], k) and fits(arguments[1], v) for k, v in value.items()
        )
    if hint is type(None):
        return value is None
    if hint in (int, bool):
        return type(value) is hint
    return isinstance(hint, type) and isinstance(value, hint)


def problem(spec: ModelSpec) -> str:
    """What is wrong with a spec, in a few words; "" if nothing is."""
    return (
        _types(spec, "")
        or _input_problem(spec)
        or _tensor_problem(spec)
        or _threshold_problem(spec)
        or _class_problem(spec)
        or _stage_problem(spec)
        or _proposal_problem(spec)
        or _map_problem(spec)
        or _json_problem(spec)
    )


def _types(value: Any, where: str) -> str:
    """The first field, however deep, whose value is not of its annotated type."""
    for name, hint in _hints(type(value)).items():  # type: ignore[arg-type]
        if name not in {f.name for f in fields(value)}:
            continue
        inner, path = getattr(value, name), f"{where}{name}"
        if not fits(hint, inner):
            return f"{path} is {_short(inner)}, expected {_name(hint)}"
        for part in inner if isinstance(inner, tuple) else (inner,):
            if is_dataclass(part) and (found := _types(part, f"{path}.")):
                return found
    return ""


def _input_problem(spec: ModelSpec) -> str:
    i = spec.input
    if not (0 < i.height <= MAX_SIDE and 0 < i.width <= MAX_SIDE):
        return f"input size is {_short(i.height)}x{_short(i.width)}, expected 1 to {MAX_SIDE} each"
    if not all(map(_finite, (*i.mean, *i.std))) or not all(s > 0 for s in i.std):
        return f"mean {_short(i.mean)} and std {_short(i.std)} must be finite, std positive"
    if i.batch is not None and not 0 < i.batch <= MAX_BATCH:
        return f"batch is {_short(i.batch)}, expected 1 to {MAX_BATCH}, or none"
    if spec.spec_version != SPEC_VERSION:
        return f"version {_short(spec.spec_version)}, expected {SPEC_VERSION}"
    return ""


def _tensor_problem(spec: ModelSpec) -> str:
    """Names, shapes and types of all tensors of the first graph."""
    if not spec.outputs:
        return "it has no outputs"
    for kind, tensors in (("input", spec.extra_inputs), ("output", spec.outputs)):
        for t in tensors:
            if found := _shape_problem(t, spec.input.batch):
                return f"{kind} {_short(t.name)} {found}"
        roles = [t.role for t in tensors if t.role != "features"]  # of which a pyramid has several
        if len(set(roles)) != len(roles):
            return f"two {kind}s have the same role"
    inputs = [spec.input.name, *(t.name for t in spec.extra_inputs)]
    outputs = [t.name for t in spec.outputs]
    for kind, names in (("input", inputs), ("output", outputs)):
        if len(set(names)) != len(names):
            return f"two {kind}s have the same name"
        if not all(names):
            return f"an {kind} has no name"
    long = [n for n in (spec.model, spec.decode.kind, *inputs, *outputs, *spec.classes) if len(n) > MAX_NAME]
    if long:
        return f"the name {_short(long[0])} is longer than {MAX_NAME} characters"
    return ""


def _shape_problem(tensor: Tensor, batch: int | None) -> str:
    shape, elements = tensor.shape, 1
    if tensor.dtype not in DTYPES:
        return f"has the type {_short(tensor.dtype)}, expected one of {', '.join(DTYPES)}"
    if not shape:
        return "has no axis for the batch"
    for axis, n in enumerate(shape):
        if n is None and axis == 0:
            continue
        if n is None or n < 1:
            return f"has the shape {_short(shape)}: only the first axis may be free, all others at least 1"
        elements *= n if axis else 1
    if elements > MAX_ELEMENTS:
        return f"has the shape {_short(shape)}: more than {MAX_ELEMENTS} values an image"
    if batch is not None and shape[0] not in (None, batch):
        return f"has the shape {_short(shape)}, but the input's batch is {batch}"
    return ""


def _threshold_problem(spec: ModelSpec) -> str:
    t = spec.thresholds
    if not (0 <= t.score <= 1 and 0 <= t.iou <= 1):
        return f"thresholds score {_short(t.score)} and iou {_short(t.iou)} must lie in [0, 1]"
    if not 0 < t.pre_nms <= MAX_PRE_NMS:
        return f"pre_nms is {_short(t.pre_nms)}, expected 1 to {MAX_PRE_NMS}"
    if not 0 < t.max_detections <= MAX_DETECTIONS:
        return f"max_detections is {_short(t.max_detections)}, expected 1 to {MAX_DETECTIONS}"
    return ""


def _class_problem(spec: ModelSpec) -> str:
    if not spec.classes or len(set(spec.classes)) != len(spec.classes) or not all(spec.classes):
        return "classes must be named, each once"
    if len(spec.classes) > MAX_CLASSES:
        return f"it has {len(spec.classes)} classes, at most {MAX_CLASSES}"
    if not all(map(_finite, spec.metrics.values())):
        return "a metric is not finite"
    return ""


def _stage_problem(spec: ModelSpec) -> str:
    names = [s.name for s in spec.stages]
    if len(set(names)) != len(names) or not all(names):
        return "stages must be named, each once"
    given = {o.role for o in spec.outputs} | {"boxes"}
    for stage in spec.stages:
        name = stage.file
        if name in ("", ".", "..") or name != name.strip() or set("/\\\0") & set(name):
            return f"stage {_short(stage.name)}: {_short(name)} is no name of a file beside this one"
        for t in (*stage.inputs, *stage.outputs):
            if found := _shape_problem(t, None):
                return f"stage {_short(stage.name)}: {_short(t.name)} {found}"
        lacking = [t.role for t in stage.inputs if t.role not in given]
        if lacking:
            return f"stage {_short(stage.name)} takes {lacking[0]}, which nothing before it gives"
    return ""


def _proposal_problem(spec: ModelSpec) -> str:
    """How a spec says where its regions come from."""
    p = spec.proposals
    if p is None:
        return ""
    if p.rows is not None:
        if not 0 < p.rows <= p.count or p.count % p.rows:
            return f"its {_short(p.count)} proposals an image are no whole number of runs of {_short(p.rows)}"
        other = next((o for o in spec.outputs if o.shape[1:2] != (p.rows,)), None)
        if other is not None:
            return f"{_short(other.name)} is {_short(other.shape)}, not a row for each of {p.rows} proposals"
    shapes = [t.shape[1:] for t in spec.extra_inputs if t.role == "proposals" and t.dtype == "float32"]
    if shapes != [(p.a_run, 4)]:
        each = "an image" if p.rows is None else "a run"
        return f"it has {_short(p.a_run)} proposals {each}, but no float32 input of that role and shape"
    if not p.method or len(p.method) > MAX_NAME or _deeper(p.parameters, MAX_DEPTH):
        return "the method of its proposals has no name, or parameters that are too deep"
    return ""


def _map_problem(spec: ModelSpec) -> str:
    """How a spec describes class maps."""
    semantic, classes = spec.task == "semantic", len(spec.classes)
    if semantic != (spec.decode.kind in MAP_KINDS):
        return f"task {spec.task!r} and decode kind {_short(spec.decode.kind)} do not go together"
    if not semantic:
        return ""
    if classes > MAX_MAP_CLASSES:
        return f"it has {classes} classes, a class map at most {MAX_MAP_CLASSES}"
    by_role = {o.role: o for o in spec.outputs}
    if "class_map" in by_role:
        out = by_role["class_map"]
        if out.shape[1:] != spec.input.size or out.dtype not in ("uint8", "int32", "int64"):
            return (
                f"its class map is {out.dtype} {_short(out.shape)}, expected uint8, int32 or int64 of"
                f" (N, {spec.input.height}, {spec.input.width})"
            )
    elif "class_logits" in by_role:
        # one logit says which of two classes: a sigmoid instead of a softmax
        shape, allowed = by_role["class_logits"].shape, (1, 2) if classes == 2 else (classes,)
        if len(shape) != 4 or shape[1] not in allowed:
            return (
                f"its class logits are {_short(shape)}, expected (N, {' or '.join(map(str, allowed))}, h, w)"
            )
    else:
        return "a semantic model needs an output of role class_map or class_logits"
    return ""


def _json_problem(spec: ModelSpec) -> str:
    """Values that no JSON holds, or that no text file does: half of a character."""
    if _deeper(spec.decode.parameters, MAX_DEPTH):
        return f"its decoder's parameters are more than {MAX_DEPTH} levels deep"
    try:
        json.dumps(asdict(spec), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "a name has half of a character (a surrogate)"
    except (TypeError, ValueError, OverflowError):
        return "its decoder's parameters are no JSON, or not finite"
    return ""


def _deeper(value: object, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return False
    return levels == 0 or any(_deeper(part, levels - 1) for part in value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _short(value: object) -> str:
    """As Python writes it, in ASCII, cut: it may be long, or unfit for a terminal."""
    if type(value) is int and abs(value) >= 1 << 63:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value[:20]) if isinstance(value, (list, tuple)) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(hint: Any) -> str:
    """An annotation for people."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_name, get_args(hint)))
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
