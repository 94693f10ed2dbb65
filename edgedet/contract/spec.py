"""ModelSpec: what travels inside every artifact, so that meaning is never guessed.

A spec says what a graph takes, what its outputs are, how they become results, and where the artifact
came from. It is JSON with a version; an ONNX file carries it in `metadata_props["edgedet.spec"]`, a
TensorRT plan in its network name (so it stays a pure plan that `trtexec --loadEngine` opens), a
checkpoint in its safetensors metadata.

How later systems fit (docs/decisions/0002-the-contract.md, 0008-seams.md): a new head is a new `Decode.kind`
with its parameters, a new kind of tensor a new `Role`; nothing here knows a model by name. Every field is
checked for its type and its meaning when a spec is made (`spec_check`); that its decoder fits its tensors is
checked when a file is opened (`postprocess.make_postprocessor`). So no spec, however wrong, gets as far as
a frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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
Layout = Literal["NCHW", "NHWC"]
PixelType = Literal["float32", "uint8"]
Role = Literal[
    "boxes",
    "scores",
    "objectness",
    "masks",
    "class_map",
    "grid",
    "features",
    "deltas",
    "class_logits",
    "margins",
    "proposals",
]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class Input:
    """The image that a graph takes: (N, 3, height, width), or (N, height, width, 3) where `layout` says so.

    A pixel v in 0..255 means (v / 255 - mean) / std, channels in the order of `colour`. A float32 input takes
    that value; a uint8 input takes v itself, and the graph normalises. `resize` is the rule that brings a
    frame to height x width (`contract.preprocess`); `batch` is None where N is free.
    """

    name: str
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: Colour = "RGB"
    resize: Resize = "stretch"
    batch: int | None = None
    dtype: PixelType = "float32"
    layout: Layout = "NCHW"

    @property
    def shape(self) -> tuple[int | None, int, int, int]:
        """(N, 3, H, W) or (N, H, W, 3); None where N is free."""
        if self.layout == "NHWC":
            return (self.batch, self.height, self.width, 3)
        return (self.batch, 3, self.height, self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)


@dataclass(frozen=True)
class Tensor:
    """A named tensor beside the image: what it means, its shape (None = batch) and dtype."""

    name: str
    role: Role
    shape: tuple[int | None, ...]
    dtype: str = "float32"


Output = Tensor
"""What a graph gives."""


@dataclass(frozen=True)
class Stage:
    """A second graph that runs on what is left after NMS (Mask R-CNN's mask head).

    file: its ONNX file or plan, beside the first one. inputs: by role, from the first graph's outputs, and
    "boxes", the kept ones in network pixels, at most `max_detections`, padded with empty boxes. outputs: by
    role, a row for each of those boxes. sha256: of that file's bytes; empty where not known.
    """

    name: str
    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sha256: str = ""


@dataclass(frozen=True)
class Proposals:
    """Where the regions come from that a graph looks at, where it does not find them itself.

    method: a key of `edgedet.contract.proposals.METHODS`, with its parameters; count: at most so many of an
    image are looked at. The graph's input of role "proposals" is (N, rows, 4) xyxy in network pixels, zeros
    where there is none. rows: how many one run of the graph takes; an image with more is several runs, so
    that the memory of a graph which works on each region alone (R-CNN) does not grow with their number.
    It divides count; None: all of them.
    """

    method: str
    count: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None

    @property
    def a_run(self) -> int:
        """Rows of the graph's input."""
        return self.count if self.rows is None else self.rows


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

    extra_inputs: tensors that a graph takes beside the image, by role (Fast R-CNN's proposals).
    proposals: how the extra input of that role is made; None where there is none.
    stages: graphs that run after NMS, in order.
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
    extra_inputs: tuple[Tensor, ...] = ()
    stages: tuple[Stage, ...] = ()
    proposals: Proposals | None = None
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        from edgedet.contract.spec_check import problem

        found = problem(self)
        if found:
            raise SpecError(f"Invalid spec of {self.model!a:.60}: {found}.", hint="Export the model again.")

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """{input name: its shape}, the image first; None where the batch is free."""
        return {self.input.name: self.input.shape, **{t.name: t.shape for t in self.extra_inputs}}

    def output(self, role: Role) -> Output:
        """The output with this role; SpecError if there is none."""
        for out in self.outputs:
            if out.role == role:
                return out
        roles = ", ".join(o.role for o in self.outputs)
        raise SpecError(f"{self.model!r} has no output of role {role!r}, only: {roles}.")

    def to_json(self) -> str:
        """One line of JSON, keys sorted, floats exact.

        A field that is newer than version 1 is left out where it says what its absence said, so that
        an older edgedet reads what it can read.
        """
        raw = asdict(self)
        for name in ("extra_inputs", "stages", "proposals"):
            if not raw[name]:
                del raw[name]
        for stage in raw.get("stages", ()):
            if not stage["sha256"]:
                del stage["sha256"]
        for name, default in (("dtype", "float32"), ("layout", "NCHW")):
            if raw["input"][name] == default:
                del raw["input"][name]
        return json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The inverse of `to_json`; SpecError names the field that is missing, unknown or malformed."""
        from edgedet.contract.spec_check import build

        try:
            raw = json.loads(
                text, parse_constant=_no_constant, parse_float=_number, object_pairs_hook=_object
            )
        except (ValueError, RecursionError) as e:
            raise SpecError(f"The spec is not JSON: {e!s:.200}.", hint="Export the model again.") from None
        if not isinstance(raw, dict):
            raise SpecError(f"The spec is a JSON {type(raw).__name__}, expected an object.")
        version = raw.get("spec_version")
        if type(version) is not int or version != SPEC_VERSION:
            raise SpecError(
                f"The spec has version {version!r:.40}; this edgedet reads version {SPEC_VERSION}.",
                hint="Export the model again with this edgedet, or install the one that wrote it.",
            )
        return build(cls, raw, "spec")

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name:.60} is no number")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A field that is there twice says two things: readers differ in which they take."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the field {name!a:.60} twice")
        found[name] = value
    return found
