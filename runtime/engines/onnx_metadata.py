"""What an ONNX file says about itself, read without onnx, without an engine and without its weights.

An ONNX file is a protobuf message (onnx/onnx.proto, ModelProto): a sequence of fields, each a key
(number << 3 | wire type) and a value. This reader seeks over the fields it does not need, so a file of
any size costs a few reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.files import open_regular
from edgedet.contract.spec import SPEC_KEY, ModelSpec

# field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 1, 7, 8, 14
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP_TYPE = 1, 4
_TENSOR_DATA_TYPE, _TENSOR_NAME = 2, 8
_OPSET_VERSION = 2
_FLOAT16 = 10  # TensorProto.DataType

_MAX_OPSET = 1000
"""ONNX is at 27. OpenVINO looks through all versions below the one asked for: 2^31 of them take minutes."""

_MAX_TEXT = 1 << 24  # bytes of a name or a metadata entry: far more than any spec has

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class _MalformedError(Exception):
    """The bytes are not a protobuf message, or end too early."""


def read_spec(path: Path) -> ModelSpec:
    """The ModelSpec inside an ONNX file.

    Raises:
        EngineError: there is no such file, or it is not a whole ONNX file.
        SpecError: it carries no spec, or one this edgedet cannot read.
    """
    text = read_metadata(path).get(SPEC_KEY)
    if text is None:
        raise SpecError(
            f"{path} carries no edgedet spec: it is an ONNX file that edgedet did not export.",
            hint="Export the model with edgedet-export; what its tensors mean is never guessed.",
        )
    return ModelSpec.from_json(text)


def read_metadata(path: Path) -> dict[str, str]:
    """An ONNX file's `metadata_props`. Raises EngineError like `read_spec`."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    with _reading(path) as f:
        for field, _, end in _fields(f, os.fstat(f.fileno()).st_size):
            if field == _MODEL_GRAPH and end is None:
                raise _MalformedError(f.tell())
            seen.add(field)
            if field == _MODEL_OPSET and end is not None:
                version = max((n for k, n, _ in _fields(f, end) if k == _OPSET_VERSION), default=0)
                if version > _MAX_OPSET:
                    raise EngineError(
                        f"{path} asks for operators of version {version}; ONNX has no such version.",
                        hint="It is damaged: export the model again with edgedet-export.",
                    )
            if field == _MODEL_METADATA and end is not None:
                entry = {k: _text(f, e) for k, _, e in _fields(f, end) if e is not None}
                name = entry.get(1, "")
                if name in found:
                    raise _MalformedError(f.tell())  # which of the two is meant?
                found[name] = entry.get(2, "")
        if not {_MODEL_IR_VERSION, _MODEL_GRAPH} <= seen:
            raise _MalformedError(f.tell())
    return found


def has_half_scales(path: Path) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear of the graph has a float16 scale (an initializer).

    Raises EngineError like `read_spec`.
    """
    half: set[str] = set()
    scales: set[str] = set()
    with _reading(path) as f:
        for field, _, end in _fields(f, os.fstat(f.fileno()).st_size):
            if field != _MODEL_GRAPH or end is None:
                continue
            for part, _, stop in _fields(f, end):
                if part == _GRAPH_INITIALIZER and stop is not None:
                    name, kind = "", 0
                    for k, number, e in _fields(f, stop):
                        if k == _TENSOR_NAME and e is not None:
                            name = _text(f, e)
                        elif k == _TENSOR_DATA_TYPE:
                            kind = number
                    if kind == _FLOAT16:
                        half.add(name)
                elif part == _GRAPH_NODE and stop is not None:
                    inputs, op = [], ""
                    for k, _, e in _fields(f, stop):
                        if k == _NODE_INPUT and e is not None:
                            inputs.append(_text(f, e))
                        elif k == _NODE_OP_TYPE and e is not None:
                            op = _text(f, e)
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
            yield f
    except OSError as e:
        raise EngineError(f"Cannot read {path}: {e.strerror or e}.", hint="Check the path.") from e
    except (_MalformedError, UnicodeDecodeError):
        raise _not_onnx(path) from None


def _text(f: BinaryIO, end: int) -> str:
    """The text from here to `end`."""
    length = end - f.tell()
    if length > _MAX_TEXT:
        raise _MalformedError(end)
    return f.read(length).decode()


def _not_onnx(path: Path) -> EngineError:
    return EngineError(
        f"{path} is not a whole ONNX file ({path.stat().st_size} bytes).",
        hint="It may be truncated or of another kind: export the model again with edgedet-export.",
    )


def _fields(f: BinaryIO, end: int) -> Iterator[tuple[int, int, int | None]]:
    """The fields of the message between here and `end`: (number, value of a varint, end of the bytes).

    The end is None for numbers; for bytes the consumer may read up to it, the rest is skipped.
    """
    while (here := f.tell()) < end:
        key = _varint(f)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _MalformedError(here)
        if wire == _VARINT:
            yield number, _varint(f), None
        elif wire == _BYTES:
            stop = _varint(f)
            stop += f.tell()
            if stop > end:
                raise _MalformedError(here)
            yield number, 0, stop
            f.seek(stop)
        elif wire in (_FIXED64, _FIXED32):
            f.seek(8 if wire == _FIXED64 else 4, os.SEEK_CUR)
            yield number, 0, None
        else:
            raise _MalformedError(here)
    if f.tell() != end:
        raise _MalformedError(end)


def _varint(f: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = f.read(1)
        if not byte or shift > 63:
            raise _MalformedError(f.tell())
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
