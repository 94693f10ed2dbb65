"""Engines, pipeline, sources, sinks. Never imports torch.

    from edgedet.runtime import JsonLines, Pipeline, open_predictor, open_source

    with open_predictor("yolo-int8.onnx") as predictor:
        report = Pipeline(open_source("0"), predictor, [JsonLines("-")]).run()

Names are loaded on first use (PEP 562), so that `import edgedet.runtime` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedet.runtime.engines.engine import Engine, Request, open_engine
    from edgedet.runtime.engines.onnx_metadata import read_metadata, read_spec
    from edgedet.runtime.pipeline import Pipeline
    from edgedet.runtime.predictor import CpuPredictor, Predictor, open_predictor
    from edgedet.runtime.sinks.overlay import Overlay
    from edgedet.runtime.sinks.sink import Callback, JsonLines, Null, Sink
    from edgedet.runtime.sinks.video import VideoFile, Window
    from edgedet.runtime.sources.source import Source, open_source
    from edgedet.runtime.stats import Histogram, Report, Timing
    from edgedet.runtime.tiles import TiledPredictor

_HOMES = {
    "engines.engine": ("Engine", "Request", "open_engine"),
    "engines.onnx_metadata": ("read_metadata", "read_spec"),
    "sinks.overlay": ("Overlay",),
    "pipeline": ("Pipeline",),
    "predictor": ("CpuPredictor", "Predictor", "open_predictor"),
    "sinks.sink": ("Callback", "JsonLines", "Null", "Sink"),
    "sources.source": ("Source", "open_source"),
    "stats": ("Histogram", "Report", "Timing"),
    "tiles": ("TiledPredictor",),
    "sinks.video": ("VideoFile", "Window"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Callback",
    "CpuPredictor",
    "Engine",
    "Histogram",
    "JsonLines",
    "Null",
    "Overlay",
    "Pipeline",
    "Predictor",
    "Report",
    "Request",
    "Sink",
    "Source",
    "TiledPredictor",
    "Timing",
    "VideoFile",
    "Window",
    "open_engine",
    "open_predictor",
    "open_source",
    "read_metadata",
    "read_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
