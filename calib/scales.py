"""`Scales`: what calibration found, bound by hash to the graph it was found on and to the data.

Only activation ranges are stored. Per-channel weight scales are a pure function of the weights and of the
arithmetic that the target sums them in (`edgedet.calib.qdq`), so the writer computes them; the cache stays a
page of readable JSON.

The binding is a hash of what the graph computes with and a norm per constant. Constants are not hashed
bit by bit: another processor or version of torch folds a norm into its convolution with other last bits,
and a cache that ships with weights must hold there too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgedet.contract.errors import CalibrationError
from edgedet.contract.files import write_atomic
from edgedet.contract.reading import read_bytes
from edgedet.contract.text import parse_json

CACHE_VERSION = 2
"""Of what `save` writes. Version 1 had no digest; it is read as well."""

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
        graph: `graph_hash` of the core they belong to.
        data: what was looked at, in words and by hash.
        images: how many.
        method: how ranges were chosen (`edgedet.calib.observers.METHODS`).
        settled: after how many images no range moved by more than 2 % any more.
        ranges: by tensor name.
        norms: `constant_norms` of the core.
    """

    graph: str
    data: str
    images: int
    method: str
    settled: int
    ranges: Mapping[str, Range]
    norms: tuple[float, ...]

    def check(self, core: Any, where: str) -> None:
        """CalibrationError unless these ranges belong to `core`, an onnx.ModelProto. `where` names them."""
        actual, norms = graph_hash(core), constant_norms(core)
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
        head = {
            "version": CACHE_VERSION,
            "graph": self.graph,
            "data": self.data,
            "images": self.images,
            "method": self.method,
            "settled": self.settled,
            "norms": list(self.norms),
        }
        whole = head | {"ranges": {k: list(r) for k, r in self.ranges.items()}}
        head["sha256"] = _digest(whole)
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        ranges = [f"    {json.dumps(k)}: [{r.low!r}, {r.high!r}]" for k, r in self.ranges.items()]
        text = "\n".join(["{", *lines, '  "ranges": {', ",\n".join(ranges), "  }", "}", ""])
        write_atomic(path, text)

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
        """ValueError says what is wrong: types first, then the digest, then what the numbers mean."""
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        version = raw.get("version")
        if type(version) is not int or version not in (1, CACHE_VERSION):
            raise ValueError(f"its version is {version!r}, this edgedet reads 1 and {CACHE_VERSION}")
        digest = raw.pop("sha256", None)
        if (digest is None) != (version == 1) or raw.keys() != _KINDS.keys():
            raise ValueError(f"a cache of version {version} has other fields")
        for name, kind in _KINDS.items():
            if type(raw[name]) is not kind:
                raise ValueError(f"its {name} is no {kind.__name__}")
        if not all(map(_number, raw["norms"])):
            raise ValueError("a norm is no number")
        for name, limits in raw["ranges"].items():
            if not (isinstance(limits, list) and len(limits) == 2 and all(map(_number, limits))):
                raise ValueError(f"the range of {name!r} is not two numbers")
        if digest is not None and digest != _digest(raw):
            raise ValueError("its content was changed after it was written (sha256)")
        ranges = {k: Range(float(low), float(high)) for k, (low, high) in raw["ranges"].items()}
        for name, r in ranges.items():
            if not r.low <= 0 <= r.high:
                raise ValueError(f"the range of {name!r} is {tuple(r)}, which does not hold 0")
        if raw["images"] < 0 or raw["settled"] < 0 or any(n < 0 for n in raw["norms"]):
            raise ValueError("a number of images or a norm is negative")
        norms = tuple(map(float, raw["norms"]))
        return cls(raw["graph"], raw["data"], raw["images"], raw["method"], raw["settled"], ranges, norms)


_AGAIN = "Calibrate again: --calib-data voc:PATH or folder:PATH."

_KINDS = {
    "version": int,
    "graph": str,
    "data": str,
    "images": int,
    "method": str,
    "settled": int,
    "norms": list,
    "ranges": dict,
}
"""The fields of a cache but for its digest, and what JSON gives for each."""

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
    """sha256 of how a core computes: its operators, wiring, input size, whole-number constants, and the
    shapes of the others (their values: `constant_norms`).

    Metadata, docstrings, opset bookkeeping and the batch size do not count. `core` is an onnx.ModelProto.
    """
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
    for tensor in graph.initializer:
        add("constant", tensor.name, tensor.data_type, list(tensor.dims))
        value = numpy_helper.to_array(tensor)
        if not np.issubdtype(value.dtype, np.floating):
            digest.update(np.ascontiguousarray(value).tobytes())
    for value in graph.output:
        add("output", value.name)
    return digest.hexdigest()


def constant_norms(core: Any) -> tuple[float, ...]:
    """The root mean square of each floating point constant, in graph order, to six significant digits."""
    from onnx import numpy_helper

    arrays = (numpy_helper.to_array(tensor) for tensor in core.graph.initializer)
    floats = (a.astype(np.float64) for a in arrays if np.issubdtype(a.dtype, np.floating))
    return tuple(float(f"{np.sqrt(np.mean(a * a)):.6g}") if a.size else 0.0 for a in floats)
