"""Engines, pipeline, sources, sinks. Never imports torch.

Names are loaded on first use (PEP 562), so that `import edgedet.runtime` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedet.runtime.engine import Engine, Request, open_engine
    from edgedet.runtime.onnx_metadata import read_metadata, read_spec

_HOME = {
    "Engine": "engine",
    "Request": "engine",
    "open_engine": "engine",
    "read_metadata": "onnx_metadata",
    "read_spec": "onnx_metadata",
}

__all__ = ["Engine", "Request", "open_engine", "read_metadata", "read_spec"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
