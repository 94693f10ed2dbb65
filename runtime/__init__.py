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
    from edgedet.contract.frames import Frame, Notice, YuvImage
    from edgedet.contract.results import Detections, Instances, SegmentationMap
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
    "contract.frames": ("Frame", "Notice", "YuvImage"),
    "contract.results": ("Detections", "Instances", "SegmentationMap"),
    "runtime.engines.engine": ("Engine", "Request", "open_engine"),
    "runtime.engines.onnx_metadata": ("read_metadata", "read_spec"),
    "runtime.sinks.overlay": ("Overlay",),
    "runtime.pipeline": ("Pipeline",),
    "runtime.predictor": ("CpuPredictor", "Predictor", "open_predictor"),
    "runtime.sinks.sink": ("Callback", "JsonLines", "Null", "Sink"),
    "runtime.sources.source": ("Source", "open_source"),
    "runtime.stats": ("Histogram", "Report", "Timing"),
    "runtime.tiles": ("TiledPredictor",),
    "runtime.sinks.video": ("VideoFile", "Window"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Callback",
    "CpuPredictor",
    "Detections",
    "Engine",
    "Frame",
    "Histogram",
    "Instances",
    "JsonLines",
    "Notice",
    "Null",
    "Overlay",
    "Pipeline",
    "Predictor",
    "Report",
    "Request",
    "SegmentationMap",
    "Sink",
    "Source",
    "TiledPredictor",
    "Timing",
    "VideoFile",
    "Window",
    "YuvImage",
    "open_engine",
    "open_predictor",
    "open_source",
    "read_metadata",
    "read_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgedet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
