"""`Scales`: what calibration found, bound by hash to the graph it was found on and to the data.

Only activation ranges are stored. Per-channel weight scales are a pure function of the weights and of the
arithmetic that the target sums them in (`edgedet.calib.qdq`), so the writer computes them; the cache stays a
page of readable JSON.

The binding is a hash of how feature maps are computed, and a norm for each constant that takes part. They are
not hashed bit by bit: another processor or version of torch folds a norm into its convolution with other last
bits, and a cache that ships with weights must hold there too. Nodes are hashed in the order of their names:
which of two that do not depend on each other is written first is the exporter's choice. What is done with
coordinates does not count: ranges are the same whatever operators choose the regions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgedet.calib.features import feature_nodes
from edgedet.contract.errors import CalibrationError
from edgedet.contract.files import write_atomic
from edgedet.contract.reading import read_bytes
from edgedet.contract.text import parse_json

CACHE_VERSION = 3
"""Of what `observe` makes. Version 1 had no digest; 1 and 2 are bound to the whole graph in the order of its
nodes, and have no stages. They are read as well, and what is saved again keeps its binding."""

MAX_CACHE = 1 << 26
"""Bytes of a cache that are read: a graph of a million tensors needs less."""

NORM_TOLERANCE = 1e-4
"""By how much (relatively) a constant's norm may differ; another training differs by far more."""


class Range(NamedTuple):
    """What a tensor's values are clipped to; low <= 0 <= high."""

    low: float
    high: float

    @property
    def threshold(self) -> float:
        """max(|low|, |high|): the symmetric range."""
        return max(-self.low, self.high)


@dataclass(frozen=True)
class Scales:
    """Activation ranges of a graph.

    Attributes:
        graph: hash of the core they belong to, see `binding`.
        data: what was looked at, in words and by hash.
        images: how many.
        method: how ranges were chosen (`edgedet.calib.observers.METHODS`).
        settled: after how many images no range moved by more than 2 % any more.
        ranges: by tensor name.
        norms: of the core's constants, see `binding`.
        stages: of the graphs that run after NMS, by the names of the spec's stages.
        version: see `CACHE_VERSION`.
    """

    graph: str
    data: str
    images: int
    method: str
    settled: int
    ranges: Mapping[str, Range]
    norms: tuple[float, ...]
    stages: Mapping[str, Scales] = field(default_factory=dict)
    version: int = CACHE_VERSION

    def check(self, core: Any, where: str) -> None:
        """CalibrationError unless these ranges belong to `core`, an onnx.ModelProto. `where` names them."""
        actual, norms = binding(core) if self.version > 2 else _binding_before_3(core)
        why = ""
        if actual != self.graph or len(norms) != len(self.norms):
            why = f"({self.graph[:8]}; this one is {actual[:8]}): another input size or architecture"
        elif not np.allclose(norms, self.norms, rtol=NORM_TOLERANCE, atol=1e-12):
            why = "of the same architecture and size: its weights are others"
        if why:
            raise CalibrationError(
                f"{where} belongs to another graph {why}.",
                hint="Calibrate this one: --calib-data voc:PATH or folder:PATH.",
            )

    def save(self, path: Path) -> None:
        """Write the calibration cache, whole or not at all."""
        version = max(self.version, 2)
        content = self._content()
        if version > 2:
            content["stages"] = {name: stage._content() for name, stage in self.stages.items()}
        digest = _digest(content | {"version": version})
        ranges = content.pop("ranges")
        head = {"version": version, **content, "sha256": digest}
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in ranges.items()]
        text = "\n".join(["{", *lines, '  "ranges": {', ",\n".join(rows), "  }", "}", ""])
        write_atomic(path, text)

    def _content(self) -> dict[str, Any]:
        """The fields that every version has, as JSON holds them."""
        norms, ranges = list(self.norms), {k: list(r) for k, r in self.ranges.items()}
        return {name: getattr(self, name) for name in _KINDS} | {"norms": norms, "ranges": ranges}

    @classmethod
    def load(cls, path: Path) -> Scales:
        """Read a calibration cache; CalibrationError if it is absent, damaged or of another version."""
        try:
            return cls._from_json(parse_json(read_bytes(path, MAX_CACHE)))
        except OSError as e:
            raise CalibrationError(f"Cannot read {path}: {e.strerror or e}.", hint=_AGAIN) from None
        except ValueError as e:
            raise CalibrationError(f"{path} is not a whole calibration cache: {e}.", hint=_AGAIN) from None

    @classmethod
    def _from_json(cls, raw: Any) -> Scales:
        """ValueError says what is wrong."""
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        version = raw.get("version")
        if type(version) is not int or not 1 <= version <= CACHE_VERSION:
            raise ValueError(f"its version is {version!r}, this edgedet reads 1 to {CACHE_VERSION}")
        digest = raw.pop("sha256", None)
        kinds = {"version", "stages", *_KINDS} if version > 2 else {"version", *_KINDS}
        if (digest is None) != (version == 1) or raw.keys() != kinds:
            raise ValueError(f"a cache of version {version} has other fields")
        if digest is not None and digest != _digest(raw):
            raise ValueError("its content was changed after it was written (sha256)")
        stages = raw.get("stages", {})
        if not isinstance(stages, dict):
            raise ValueError("its stages are no object")
        for name, stage in stages.items():
            if not isinstance(stage, dict) or stage.keys() != _KINDS.keys():
                raise ValueError(f"its stage {name!r} has other fields")
        made = {name: cls._from_fields(stage, version, {}) for name, stage in stages.items()}
        return cls._from_fields(raw, version, made)

    @classmethod
    def _from_fields(cls, raw: Mapping[str, Any], version: int, stages: Mapping[str, Scales]) -> Scales:
        """ValueError says what is wrong: types first, then what the numbers mean."""
        for name, kind in _KINDS.items():
            if type(raw[name]) is not kind:
                raise ValueError(f"its {name} is no {kind.__name__}")
        if not all(map(_number, raw["norms"])):
            raise ValueError("a norm is no number")
        for name, limits in raw["ranges"].items():
            if not (isinstance(limits, list) and len(limits) == 2 and all(map(_number, limits))):
                raise ValueError(f"the range of {name!r} is not two numbers")
        ranges = {k: Range(float(low), float(high)) for k, (low, high) in raw["ranges"].items()}
        for name, r in ranges.items():
            if not r.low <= 0 <= r.high:
                raise ValueError(f"the range of {name!r} is {tuple(r)}, which does not hold 0")
        if raw["images"] < 0 or raw["settled"] < 0 or any(n < 0 for n in raw["norms"]):
            raise ValueError("a number of images or a norm is negative")
        norms = tuple(map(float, raw["norms"]))
        words = (raw["graph"], raw["data"], raw["images"], raw["method"], raw["settled"])
        return cls(*words, ranges, norms, stages, version)


_AGAIN = "Calibrate again: --calib-data voc:PATH or folder:PATH."

_KINDS = {
    "graph": str,
    "data": str,
    "images": int,
    "method": str,
    "settled": int,
    "norms": list,
    "ranges": dict,
}
"""The fields that a cache of any version has, and each of its stages, and what JSON gives for each."""

_LARGEST = float(np.finfo(np.float32).max)


def _number(value: object) -> bool:
    """Whether it is a number (a bool is none) that float32 can hold."""
    return type(value) in (int, float) and abs(value) <= _LARGEST  # type: ignore[arg-type]


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of a cache's content; blanks between its parts and their order do not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rounded(low: float, high: float) -> Range:
    """A range with six significant digits, so that what is saved is what was used."""
    return Range(float(f"{min(low, 0.0):.6g}"), float(f"{max(high, 0.0):.6g}"))


def graph_hash(core: Any) -> str:
    """The first part of `binding`."""
    return binding(core)[0]


def binding(core: Any) -> tuple[str, tuple[float, ...]]:
    """What ranges are bound to, of a core (onnx.ModelProto): a hash and norms.

    The sha256 is of how feature maps are computed: operators, wiring, the image's size, whole-number
    constants, the shapes of the others. Metadata, docstrings, opset bookkeeping, the batch size and the order
    of the nodes do not count. The norms are root mean squares, to six significant digits, of the floating
    point constants, node by node in the order of their names.
    """
    constants = {t.name: t for t in core.graph.initializer}
    described = {name: _described(t) for name, t in constants.items()}
    records: list[list[Any]] = []
    norms = []
    for value in core.graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if len(dims) == 4:
            records.append(["input", value.name, dims[1:]])
    for node in sorted(feature_nodes(core), key=lambda n: str(n.output[0])):
        attributes = sorted(
            (str(a.name), a.SerializeToString(deterministic=True).hex()) for a in node.attribute
        )
        inputs = [described.get(name, name) for name in node.input]
        records.append([node.op_type, node.domain, inputs, list(node.output), attributes])
        norms += [norm for name in node.input if name in constants for norm in _norm(constants[name])]
    return hashlib.sha256(json.dumps(records).encode()).hexdigest(), tuple(norms)


def _described(tensor: Any) -> list[Any]:
    """A constant without its name: two layers with equal ones share it under the name of either."""
    from onnx import numpy_helper

    value = numpy_helper.to_array(tensor)
    exact = "" if np.issubdtype(value.dtype, np.floating) else np.ascontiguousarray(value).tobytes().hex()
    return [tensor.data_type, list(tensor.dims), exact]


def _norm(tensor: Any) -> list[float]:
    """The root mean square of a constant, or nothing if it is no floating point one."""
    from onnx import numpy_helper

    value = numpy_helper.to_array(tensor)
    if not np.issubdtype(value.dtype, np.floating):
        return []
    wide = value.astype(np.float64)
    return [float(f"{np.sqrt(np.mean(wide * wide)):.6g}") if wide.size else 0.0]


def _binding_before_3(core: Any) -> tuple[str, tuple[float, ...]]:
    """What caches before version 3 are bound to: the whole graph in the order of its nodes."""
    from onnx import numpy_helper

    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(json.dumps(parts, sort_keys=True).encode())

    graph = core.graph
    for value in graph.input:
        add("input", value.name, [d.dim_value for d in value.type.tensor_type.shape.dim][1:])
    for node in graph.node:
        add(node.op_type, node.domain, list(node.input), list(node.output))
        for attribute in sorted(node.attribute, key=lambda a: str(a.name)):
            digest.update(attribute.SerializeToString(deterministic=True))
    norms = []
    for tensor in graph.initializer:
        add("constant", tensor.name, tensor.data_type, list(tensor.dims))
        value = numpy_helper.to_array(tensor)
        if not np.issubdtype(value.dtype, np.floating):
            digest.update(np.ascontiguousarray(value).tobytes())
        norms += _norm(tensor)
    for value in graph.output:
        add("output", value.name)
    return digest.hexdigest(), tuple(norms)
