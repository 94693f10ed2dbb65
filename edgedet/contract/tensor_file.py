"""The header of a safetensors file, read and checked without its library.

8 bytes of length (little endian), that much JSON, then the tensors' bytes. The JSON has for each tensor its
dtype, shape and place, and under `__metadata__` texts by name
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgedet.contract.errors import WeightsError
from edgedet.contract.reading import open_regular
from edgedet.contract.text import parse_json

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""dtype -> bytes of a value."""

MAX_HEADER = 1 << 24
"""Bytes of JSON that are read: more than 100,000 tensors need."""

BASE_KEY = "edgedet.base"
"""Metadata: which file holds the tensors that this one leaves out."""

_MAX_RANK = 32


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file says of itself: (dtype, shape) of each tensor, and its metadata."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Base:
    """Another file that holds some of a file's tensors: its path from that file's folder, sha256, names."""

    file: str
    sha256: str
    tensors: tuple[str, ...]

    def to_json(self) -> str:
        """For the metadata."""
        return json.dumps(asdict(self), sort_keys=True)


def base_of(path: Path, metadata: Mapping[str, str]) -> Base | None:
    """What a file's metadata says of another that holds tensors of it; WeightsError if that is damaged."""
    if BASE_KEY not in metadata:
        return None
    try:
        said = parse_json(metadata[BASE_KEY])
        base = Base(said["file"], said["sha256"], tuple(said["tensors"]))
        texts = (base.file, base.sha256, *base.tensors)
        if not all(isinstance(text, str) for text in texts) or Path(base.file).is_absolute():
            raise ValueError("a relative path, a sha256 and names are expected")
    except (TypeError, KeyError, ValueError) as e:
        raise WeightsError(
            f"{path} does not say which file holds the rest of its tensors: {e}.",
            hint="The file is damaged: copy or train it again.",
        ) from None
    return base


def read_tensor_file(path: Path) -> TensorFile:
    """The header of a safetensors file.

    Raises:
        WeightsError: no such file; or the header is damaged; or the tensors, one after the other, are not
            exactly the rest of the file.
    """
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise ValueError(f"a header of {length} bytes does not fit into it")
            header = parse_json(f.read(length))
        return _checked(header, size - 8 - length)
    except OSError as e:
        raise WeightsError(
            f"Cannot read {path}: {e.strerror or e}.",
            hint="Check the path; edgedet-train writes best.safetensors.",
        ) from None
    except (ValueError, struct.error) as e:
        raise WeightsError(
            f"{path} is not a whole safetensors file: {e}.", hint="Copy or train it again."
        ) from None


def _checked(header: Any, size: int) -> TensorFile:
    """The header's content; `size` bytes follow it. ValueError says what is wrong."""
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text by name")
    tensors, places = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name!r} is not a dtype, a shape and offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BYTES:
            raise ValueError(f"the dtype of {name!r} is {str(dtype)[:40]!r}")
        if not _counts(shape) or len(shape) > _MAX_RANK:
            raise ValueError(f"the shape of {name!r} is no list of sizes")
        if not _counts(offsets) or len(offsets) != 2:
            raise ValueError(f"the offsets of {name!r} are no two places")
        if offsets[1] - offsets[0] != BYTES[dtype] * prod(shape):
            raise ValueError(f"{name!r} has other bytes than its dtype and shape need")
        tensors[name] = (dtype, tuple(shape))
        places.append((*offsets, name))
    end = 0
    for begin, stop, name in sorted(places):
        if begin != end:
            raise ValueError(f"{name!r} begins at byte {begin}, where {end} was expected")
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, {size} are there")
    return TensorFile(tensors, metadata)


def _counts(value: Any) -> bool:
    """Whether it is a list of whole numbers from 0, none of them beyond 64 bits."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
