"""The figures of a measurement, as values: of one image at a time, of a round, of a model over all rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgedet.runtime.stats import Report, Timing

PIPELINE_CLOCK = "capture, resize, network, decoding, drawing, JSON line"
ENGINE_CLOCK = "network alone, inputs ready"
LATENCY_CLOCK = "network alone, one request at a time"
IMAGE_CLOCK = "one image at a time, from its pixels to its results"


@dataclass(frozen=True)
class OneImage:
    """One image at a time, from its pixels to its results: medians over `images` of them, in milliseconds.

    whole: all steps; without_proposals: without the time of proposals from outside the network, equal where
    there are none; steps: by the predictor's names, in order.
    """

    images: int
    whole: float
    without_proposals: float
    steps: Mapping[str, float]


@dataclass(frozen=True)
class Round:
    """One turn of one subject.

    engine_fps counts images; latency is of the network, one request at a time; network_cpu, decode_cpu:
    CPU milliseconds for an image of the engine alone, and for a frame of decoding alone, on all threads;
    image: from pixels to results, one image at a time.
    """

    pipeline: Report
    engine_fps: float
    latency: Timing
    network_cpu: float
    decode_cpu: float
    image: OneImage

    @property
    def ratio(self) -> float:
        """Pipeline throughput over engine throughput."""
        return self.pipeline.fps / self.engine_fps

    @property
    def bound(self) -> float:
        """The share of CPU time that decoding leaves to the network, if there is nothing else."""
        return self.network_cpu / (self.network_cpu + self.decode_cpu)


@dataclass(frozen=True)
class Measured:
    """One model file on one engine, over all rounds."""

    file: Path
    model: str
    precision: str
    library: str
    engine: str
    size: tuple[int, int]
    batch: int
    streams: int
    in_flight: int
    rounds: tuple[Round, ...]

    @property
    def middle(self) -> Round:
        """The round with the median ratio, the lower of two: all figures but ranges are of it."""
        return sorted(self.rounds, key=lambda r: r.ratio)[(len(self.rounds) - 1) // 2]

    @property
    def ratio_range(self) -> tuple[float, float]:
        """The least and the most over the rounds."""
        ratios = [r.ratio for r in self.rounds]
        return min(ratios), max(ratios)

    def to_json(self) -> dict[str, Any]:
        """All figures, milliseconds and images per second."""
        shown = self.middle
        least, most = self.ratio_range
        return {
            "file": str(self.file),
            "model": self.model,
            "precision": self.precision,
            "engine": self.engine,
            "height": self.size[0],
            "width": self.size[1],
            "batch": self.batch,
            "streams": self.streams,
            "in_flight": self.in_flight,
            "pipeline_fps": round(shown.pipeline.fps, 2),
            "engine_fps": round(shown.engine_fps, 2),
            "pipeline_over_engine": {
                "this": round(shown.ratio, 4),
                "min": round(least, 4),
                "max": round(most, 4),
                "bound": round(shown.bound, 4),
            },
            "cpu_ms": {"network": round(shown.network_cpu, 4), "decoding": round(shown.decode_cpu, 4)},
            "latency_ms": asdict(shown.latency),
            "image_ms": asdict(shown.image),
            "pipeline": json.loads(shown.pipeline.to_json()),
            "rounds": [
                {
                    "pipeline_fps": r.pipeline.fps,
                    "engine_fps": r.engine_fps,
                    "latency_p50_ms": r.latency.p50,
                    "image_ms": r.image.whole,
                    "network_cpu_ms": r.network_cpu,
                    "decode_cpu_ms": r.decode_cpu,
                }
                for r in self.rounds
            ],
        }


@dataclass(frozen=True)
class Gain:
    """What INT8 brings: latency of the INT8 file over that of the FP32 file, same model, same engine.

    Median, least and most of the rounds' own ratios.
    """

    model: str
    library: str
    median: float
    least: float
    most: float


def gains(results: Sequence[Measured]) -> list[Gain]:
    """INT8 over FP32 for every model and engine that has both, paired round by round."""
    found = []
    for low in results:
        for full in results:
            same = (low.model, low.library, low.size) == (full.model, full.library, full.size)
            if same and (low.precision, full.precision) == ("int8", "fp32"):
                pairs = zip(low.rounds, full.rounds, strict=True)
                found.append(
                    Gain(low.model, low.library, *_spread([a.latency.p50 / b.latency.p50 for a, b in pairs]))
                )
    return found


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)
