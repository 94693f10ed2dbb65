"""ModelSpec: what travels inside every artifact, so that meaning is never guessed.

A spec says what a graph takes, what its outputs are, how they become results, and where the artifact
came from. It is JSON with a version; an ONNX file carries it in `metadata_props["edgedet.spec"]`, a
TensorRT plan in its network name (so it stays a pure plan that `trtexec --loadEngine` opens), a
checkpoint in its safetensors metadata.

How later systems fit (docs/decisions/0002-the-contract.md): a new head is a new `Decode.kind` with its
parameters, a new kind of output a new `Role`; nothing here knows a model by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

from edgedet.contract.errors import SpecError

SPEC_VERSION = 1
SPEC_KEY = "edgedet.spec"
"""The key under which ONNX and safetensors metadata hold the JSON."""

MAX_PRE_NMS = 2000
"""Small TensorRT devices look at no more boxes than this in an NMS; the contract promises no more."""

MAP_KINDS = ("class_map",)
"""Kinds of decoding that give a class per pixel (`decode.MAP_DECODERS`), not boxes and scores."""

VOID = 255
"""In a class map of labelled data: nothing is said of this pixel. It is neither trained on nor measured."""

MAX_MAP_CLASSES = VOID
"""A class map is uint8, and one value stands for void."""

Task = Literal["detection", "semantic", "instance", "localisation"]
Resize = Literal["stretch", "letterbox"]
Colour = Literal["RGB", "BGR"]
Role = Literal["boxes", "scores", "masks", "class_map", "grid", "features", "deltas", "class_logits"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """What the graph takes: one tensor (N, 3, height, width) float32.

    A pixel v in 0..255 enters as (v / 255 - mean) / std, channels in the order of `colour`. `resize` is
    the rule that brings a frame to height x width (`contract.preprocess`); `batch` is None where N is free.
    """

    name: str
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: Colour = "RGB"
    resize: Resize = "stretch"
    batch: int | None = None

    @property
    def shape(self) -> tuple[int | None, int, int, int]:
        """(N, 3, H, W); None where N is free."""
        return (self.batch, 3, self.height, self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)


@dataclass(frozen=True)
class Output:
    """One output tensor: its name in the graph, what it means, its shape (None = batch) and dtype."""

    name: str
    role: Role
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Decode:
    """How output tensors become results: a key of `edgedet.contract.decode.DECODERS` (boxes and scores) or
    `MAP_DECODERS` (a class per pixel), and its parameters.
    """

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """The NMS contract's numbers (edgedet.contract.postprocess.nms).

    score: boxes at or below it are dropped; iou: a box is kept while its IoU with every better kept box
    of its class is at or below it; pre_nms: only this many best candidates are looked at;
    max_detections: at most this many are returned; class_agnostic: one NMS over all classes.
    """

    score: float = 0.25
    iou: float = 0.45
    pre_nms: int = 1000
    max_detections: int = 100
    class_agnostic: bool = False


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from. Empty strings where not known."""

    weights_sha256: str = ""
    data: str = ""
    calibration: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """See the module's docstring. Validated on construction; raises SpecError.

    metrics: measured accuracy, if known, for example {"AP50_11point@VOC2007-val": 0.61}.
    build: facts a TensorRT preflight needs (version, compute capabilities), empty elsewhere.
    """

    model: str
    task: Task
    input: Input
    outputs: tuple[Output, ...]
    decode: Decode
    classes: tuple[str, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)
    precision: Precision = "fp32"
    provenance: Provenance = field(default_factory=Provenance)
    metrics: Mapping[str, float] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise SpecError(f"Invalid spec of {self.model!r}: {problem}.", hint="Export the model again.")

    def output(self, role: Role) -> Output:
        """The output with this role; SpecError if there is none."""
        for out in self.outputs:
            if out.role == role:
                return out
        roles = ", ".join(o.role for o in self.outputs)
        raise SpecError(f"{self.model!r} has no output of role {role!r}, only: {roles}.")

    def to_json(self) -> str:
        """One line of JSON, keys sorted, floats exact."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The inverse of `to_json`; SpecError names the field that is missing, unknown or malformed."""
        try:
            raw = json.loads(text)
        except ValueError as e:
            raise SpecError(f"The spec is not JSON: {e}.", hint="Export the model again.") from None
        if not isinstance(raw, dict):
            raise SpecError(f"The spec is a JSON {type(raw).__name__}, expected an object.")
        version = raw.get("spec_version")
        if version != SPEC_VERSION:
            raise SpecError(
                f"The spec has version {version!r}; this edgedet reads version {SPEC_VERSION}.",
                hint="Export the model again with this edgedet, or install the one that wrote it.",
            )
        raw["input"] = _build(Input, raw.get("input"))
        outputs = raw.get("outputs")
        raw["outputs"] = tuple(_build(Output, o) for o in (outputs if isinstance(outputs, list) else [None]))
        for name, kind in (("decode", Decode), ("thresholds", Thresholds), ("provenance", Provenance)):
            raw[name] = _build(kind, raw.get(name))
        return _build(cls, raw)

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def _build(kind: type[T], raw: object) -> T:
    """A dataclass from a JSON object: lists become tuples, unknown and missing keys are errors."""
    if not isinstance(raw, dict):
        raise SpecError(f"The spec's {kind.__name__} is {raw!r}, expected an object.")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - known)
    if unknown:
        raise SpecError(f"The spec's {kind.__name__} has unknown fields: {', '.join(unknown)}.")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    except TypeError as e:
        raise SpecError(f"The spec's {kind.__name__} is incomplete: {e}.") from None


def _problem(spec: ModelSpec) -> str:
    """What is wrong with a spec, in a few words; empty if nothing is."""
    i, t = spec.input, spec.thresholds
    choices: list[tuple[str, object, object]] = [
        ("task", spec.task, Task),
        ("precision", spec.precision, Precision),
        ("resize rule", i.resize, Resize),
        ("colour order", i.colour, Colour),
        *(("output role", o.role, Role) for o in spec.outputs),
    ]
    for name, value, kind in choices:
        if value not in get_args(kind):
            return f"{name} is {value!r}, expected one of {', '.join(get_args(kind))}"
    if not (isinstance(i.height, int) and isinstance(i.width, int) and i.height > 0 and i.width > 0):
        return f"input size is {i.height!r}x{i.width!r}, expected positive integers"
    if len(i.mean) != 3 or len(i.std) != 3 or not all(s > 0 for s in i.std):
        return f"mean {i.mean} and std {i.std} must have 3 values each, std positive"
    if not spec.outputs:
        return "it has no outputs"
    if len({o.name for o in spec.outputs}) != len(spec.outputs):
        return "two outputs have the same name"
    if not spec.classes or len(set(spec.classes)) != len(spec.classes):
        return "classes must be named, each once"
    if not (0 <= t.score <= 1 and 0 <= t.iou <= 1):
        return f"thresholds score {t.score} and iou {t.iou} must lie in [0, 1]"
    if not 0 < t.pre_nms <= MAX_PRE_NMS:
        return f"pre_nms is {t.pre_nms}, expected 1 to {MAX_PRE_NMS}"
    if t.max_detections <= 0:
        return f"max_detections is {t.max_detections}, expected at least 1"
    return _map_problem(spec)


def _map_problem(spec: ModelSpec) -> str:
    """What is wrong with how a spec speaks of class maps; empty if nothing is."""
    semantic, classes = spec.task == "semantic", len(spec.classes)
    if semantic != (spec.decode.kind in MAP_KINDS):
        return f"task {spec.task!r} and decode kind {spec.decode.kind!r} do not go together"
    if not semantic:
        return ""
    if classes > MAX_MAP_CLASSES:
        return f"it has {classes} classes, a class map at most {MAX_MAP_CLASSES}"
    by_role = {o.role: o for o in spec.outputs}
    if "class_map" in by_role:
        out = by_role["class_map"]
        if out.shape[1:] != spec.input.size or out.dtype not in ("uint8", "int32", "int64"):
            return (
                f"its class map is {out.dtype} {out.shape}, expected uint8, int32 or int64 of"
                f" (N, {spec.input.height}, {spec.input.width})"
            )
    elif "class_logits" in by_role:
        # one logit says which of two classes: a sigmoid instead of a softmax
        shape, allowed = by_role["class_logits"].shape, (1, 2) if classes == 2 else (classes,)
        if len(shape) != 4 or shape[1] not in allowed:
            return f"its class logits are {shape}, expected (N, {' or '.join(map(str, allowed))}, h, w)"
    else:
        return "a semantic model needs an output of role class_map or class_logits"
    return ""
