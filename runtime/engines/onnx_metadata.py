"""What an ONNX file says about itself, read without onnx, without an engine and without its weights.

An ONNX file is a protobuf message (onnx/onnx.proto, ModelProto). Tensors are not read, but for the digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.reading import open_regular
from edgedet.contract.spec import SPEC_KEY, ModelSpec
from edgedet.runtime.engines.onnx_structure import problem
from edgedet.runtime.engines.protobuf import MalformedError, fields, text

DIGEST_KEY = "edgedet.graph_sha256"
"""The key under which metadata holds the sha256 of the graph's bytes. Files without it are not checked."""

# field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 1, 7, 8, 14
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP_TYPE = 1, 4
_TENSOR_DATA_TYPE, _TENSOR_NAME = 2, 8
_AGAIN = "The file is damaged, or another tool changed it: copy or export the model again."

_OPSET_VERSION = 2
_FLOAT16 = 10  # TensorProto.DataType

_MAX_OPSET = 1000
"""ONNX is at 27. OpenVINO looks through all versions below the one asked for: 2^31 of them take minutes."""


def read_spec(path: Path) -> ModelSpec:
    """The ModelSpec inside an ONNX file.

    Raises:
        EngineError: there is no such file, it is not a whole ONNX file, or its graph does not hang together.
        SpecError: it carries no spec, or one this edgedet cannot read.
    """
    spec = checked_metadata(path).get(SPEC_KEY)
    if spec is None:
        raise SpecError(
            f"{path} carries no edgedet spec: it is an ONNX file that edgedet did not export.",
            hint="Export the model with edgedet-export; what its tensors mean is never guessed.",
        )
    return ModelSpec.from_json(spec)


def checked_metadata(path: Path) -> dict[str, str]:
    """As `read_metadata`, of a file whose graph hangs together: what a library may be given.

    Raises EngineError like `read_spec`.
    """
    found = read_metadata(path)
    with _reading(path) as f:
        for field, _, end in fields(f, os.fstat(f.fileno()).st_size):
            why = problem(f, end) if field == _MODEL_GRAPH and end is not None else ""
            if why:
                raise EngineError(f"The graph in {path} is damaged: {why}.", hint=_AGAIN)
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """An ONNX file's `metadata_props`. Raises EngineError like `read_spec`, also for a changed graph."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    graph = (0, 0)
    with _reading(path) as f:
        for field, _, end in fields(f, os.fstat(f.fileno()).st_size):
            if field == _MODEL_GRAPH:
                if end is None or field in seen:
                    raise MalformedError(f.tell())
                graph = (f.tell(), end)
            seen.add(field)
            if field == _MODEL_OPSET and end is not None:
                version = max((n for k, n, _ in fields(f, end) if k == _OPSET_VERSION), default=0)
                if version > _MAX_OPSET:
                    raise EngineError(
                        f"{path} asks for operators of version {version}; ONNX has no such version.",
                        hint=_AGAIN,
                    )
            if field == _MODEL_METADATA and end is not None:
                entry = {k: text(f, e) for k, _, e in fields(f, end) if e is not None}
                name = entry.get(1, "")
                if name in found:
                    raise MalformedError(f.tell())  # which of the two is meant?
                found[name] = entry.get(2, "")
        if not {_MODEL_IR_VERSION, _MODEL_GRAPH} <= seen:
            raise MalformedError(f.tell())
        if DIGEST_KEY in found and found[DIGEST_KEY] != _sha256(f, *graph):
            raise EngineError(
                f"The graph in {path} is not the one that edgedet wrote (sha256).",
                hint=_AGAIN,
            )
    return found


def has_half_scales(path: Path) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear of the graph has a float16 scale (an initializer).

    Raises EngineError like `read_spec`.
    """
    half: set[str] = set()
    scales: set[str] = set()
    with _reading(path) as f:
        for field, _, end in fields(f, os.fstat(f.fileno()).st_size):
            if field != _MODEL_GRAPH or end is None:
                continue
            for part, _, stop in fields(f, end):
                if part == _GRAPH_INITIALIZER and stop is not None:
                    name, kind = "", 0
                    for k, number, e in fields(f, stop):
                        if k == _TENSOR_NAME and e is not None:
                            name = text(f, e)
                        elif k == _TENSOR_DATA_TYPE:
                            kind = number
                    if kind == _FLOAT16:
                        half.add(name)
                elif part == _GRAPH_NODE and stop is not None:
                    inputs, op = [], ""
                    for k, _, e in fields(f, stop):
                        if k == _NODE_INPUT and e is not None:
                            inputs.append(text(f, e))
                        elif k == _NODE_OP_TYPE and e is not None:
                            op = text(f, e)
                    if op in ("QuantizeLinear", "DequantizeLinear") and len(inputs) > 1:
                        scales.add(inputs[1])
    return bool(half & scales)


def engine_argument(path: Path) -> str | bytes:
    """What to give to a library that opens an ONNX file: its path, or its bytes where the path is not UTF-8.

    Raises EngineError if it cannot be read.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with _reading(path) as f:
            return f.read()
    return str(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file, open; what goes wrong inside the block as EngineError."""
    try:
        with open_regular(path) as f:
            try:
                yield f
            except (MalformedError, UnicodeDecodeError):
                # the size of what was read: by now the path may lead elsewhere, or nowhere
                raise _not_onnx(path, os.fstat(f.fileno()).st_size) from None
    except OSError as e:
        raise EngineError(f"Cannot read {path}: {e.strerror or e}.", hint="Check the path.") from e


def _sha256(f: BinaryIO, start: int, end: int) -> str:
    """Of the bytes from `start` to `end`."""
    digest = hashlib.sha256()
    f.seek(start)
    while start < end:
        part = f.read(min(end - start, 1 << 20))
        if not part:
            raise MalformedError(end)
        digest.update(part)
        start += len(part)
    return digest.hexdigest()


def _not_onnx(path: Path, size: int) -> EngineError:
    return EngineError(
        f"{path} is not a whole ONNX file ({size} bytes).",
        hint="It may be truncated or of another kind: export the model again with edgedet-export.",
    )
