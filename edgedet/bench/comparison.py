"""What a comparison of detectors found, as a value: accuracy beside speed, and the family's speed-ups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from edgedet import __version__
from edgedet.bench.artifacts import FAMILY, Artifact, Missing, detectors
from edgedet.bench.claims import CAVEAT, CLAIMS, SPEEDUPS, Claim
from edgedet.bench.figures import (
    ENGINE_CLOCK,
    IMAGE_CLOCK,
    LATENCY_CLOCK,
    PIPELINE_CLOCK,
    Measured,
    OneImage,
    Round,
)
from edgedet.bench.rcnn_parts import Parts
from edgedet.bench.scores import Score
from edgedet.runtime import hardware

MEASURE = "VOC 11-point AP at IoU 0.5, mean over the classes"


@dataclass(frozen=True)
class Compared:
    """One detector in one precision on one engine. mask_score: on data with masks, where it gives some."""

    artifact: Artifact
    speed: Measured
    score: Score
    mask_score: Score | None = None

    @property
    def name(self) -> str:
        """The detector's."""
        return self.artifact.spec.model

    @property
    def precision(self) -> str:
        """The file's: "fp32" or "int8"."""
        return self.artifact.spec.precision

    @property
    def column(self) -> tuple[str, str]:
        """(engine, precision): figures are set beside those of the same."""
        return self.artifact.library, self.precision

    @property
    def image(self) -> OneImage:
        """One image at a time, in the round that is shown."""
        return self.speed.middle.image

    @property
    def outside(self) -> bool:
        """Whether its proposals come from outside the network."""
        return self.artifact.spec.proposals is not None


@dataclass(frozen=True)
class Faster:
    """How many times faster one detector is than another, one image at a time: (median, least, most) of the
    rounds' own ratios.
    """

    system: str
    baseline: str
    library: str
    precision: str
    all_steps: tuple[float, float, float]
    without_proposals: tuple[float, float, float]


@dataclass(frozen=True)
class Comparison:
    """Everything a reader needs to judge the figures.

    data, images: what accuracy was measured on; source: what speed was, of at most `frames` frames a round
    and `seconds`, if that is sooner over; parts: of R-CNN's files, on ONNX Runtime.
    """

    cpu: hardware.Cpu
    memory_gib: float | None
    threads: int | None
    data: str
    images: int
    mask_data: str
    source: str
    frames: int
    seconds: float
    rows: tuple[Compared, ...]
    missing: tuple[Missing, ...]
    parts: Mapping[Path, Parts] = field(default_factory=dict)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The (engine, precision) that there are, in order."""
        return list(dict.fromkeys(r.column for r in self.rows))

    @property
    def hardware(self) -> str:
        """The machine in a few words."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return f"{self.cpu}{threads}"

    @property
    def classes(self) -> tuple[str, ...]:
        """What most detectors' AP is the mean over: the longest list of classes that one of them knows."""
        return max((r.score.classes for r in self.rows), key=len)

    def comparable(self, row: Compared) -> bool:
        """Whether a row's AP, where it was measured, is the mean over the same classes as the others'."""
        return row.score.ap11 is None or set(row.score.classes) == set(self.classes)

    def row(self, name: str, column: tuple[str, str]) -> Compared | None:
        """The row of a detector on an engine in a precision."""
        return next((r for r in self.rows if r.name == name and r.column == column), None)

    def reference(self, row: Compared) -> Compared | None:
        """The FP32 row that an INT8 row is set against."""
        library, precision = row.column
        return None if precision == "fp32" else self.row(row.name, (library, "fp32"))

    def faster(self) -> Iterator[Faster]:
        """The family's speed-ups, wherever two of it were measured."""
        for column in self.columns:
            for before, after in combinations(FAMILY, 2):
                slow, fast = self.row(before, column), self.row(after, column)
                if slow is not None and fast is not None:
                    pairs = list(zip(slow.speed.rounds, fast.speed.rounds, strict=True))
                    yield Faster(
                        after,
                        before,
                        *column,
                        _spread([a.image.whole / b.image.whole for a, b in pairs]),
                        _spread([_without(a) / _without(b) for a, b in pairs]),
                    )

    def beside(self, claim: Claim, column: tuple[str, str]) -> tuple[float, float] | None:
        """Of the claim's system here: (images per second by the claim's clock, times the claim's)."""
        row = self.row(claim.model, column)
        if row is None:
            return None
        ms = row.image.without_proposals if claim.without_proposals else row.image.whole
        # the claims of detectors are one figure each
        return 1e3 / ms, 1e3 / ms / claim.fps[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`: shares in [0, 1], milliseconds, images per second, bytes."""
        return {
            "edgedet": __version__,
            "machine": {**asdict(self.cpu), "memory_gib": self.memory_gib, "threads": self.threads},
            "accuracy": {"measure": MEASURE, "data": self.data, "images": self.images},
            "mask_data": self.mask_data or None,
            "speed": {
                "source": self.source,
                "frames_per_round": self.frames,
                "seconds_per_pass": self.seconds,
                "clock": {
                    "image": IMAGE_CLOCK,
                    "pipeline": PIPELINE_CLOCK,
                    "engine": ENGINE_CLOCK,
                    "latency": LATENCY_CLOCK,
                },
            },
            "detectors": [self._row_json(r) for r in self.rows],
            "missing": [asdict(m) for m in self.missing],
            "family": [asdict(f) for f in self.faster()],
            "claims": [
                asdict(c)
                | {
                    "fps": c.fps,
                    "here": {" ".join(column): self.beside(c, column) for column in self.columns},
                }
                for c in claims()
            ],
            "speedups": [asdict(s) for s in SPEEDUPS],
            "caveat": CAVEAT,
        }

    def _row_json(self, row: Compared) -> dict[str, Any]:
        full = self.reference(row)
        return {
            "detector": row.name,
            "precision": row.precision,
            "bytes": row.artifact.size,
            "proposals": row.artifact.spec.proposals.count if row.artifact.spec.proposals else None,
            "accuracy": asdict(row.score),
            "accuracy_with_masks": asdict(row.mask_score) if row.mask_score else None,
            "change": difference(row.score.ap11, full.score.ap11) if full else None,
            "speed": row.speed.to_json(),
            "parts": parts.to_json() if (parts := self.parts.get(row.artifact.file)) else None,
        }


def claims() -> list[Claim]:
    """What is published of the systems that a comparison may hold, the family first."""
    systems = list(dict.fromkeys([*FAMILY, *detectors()]))
    return sorted((c for c in CLAIMS if c.model in systems), key=lambda c: systems.index(c.model))


def difference(value: float | None, first: float | None) -> float | None:
    """How much more a value is than the first; None where either was not measured."""
    return None if value is None or first is None else value - first


def _without(r: Round) -> float:
    return r.image.without_proposals


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    return median(ratios), min(ratios), max(ratios)
