"""The speed report: what was measured here beside the lecture's claims, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import __version__
from edgedet.bench.claims import CAVEAT, CLAIMS, SPEEDUPS, Claim
from edgedet.bench.figures import ENGINE_CLOCK, LATENCY_CLOCK, PIPELINE_CLOCK, Gain, Measured
from edgedet.bench.rcnn_parts import Parts
from edgedet.contract.text import printable
from edgedet.runtime import hardware

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class SpeedReport:
    """Everything a reader needs to judge the figures: machine, conditions, results, claims."""

    cpu: hardware.Cpu
    memory_gib: float | None
    source: str
    frames: int
    threads: int | None
    results: Sequence[Measured]
    gains: Sequence[Gain]
    parts: Mapping[Path, Parts] = field(default_factory=dict)

    @property
    def best(self) -> Measured:
        """What is set against the claims: the fastest whole pipeline."""
        return max(self.results, key=lambda m: m.middle.pipeline.fps)

    @property
    def hardware(self) -> str:
        """The machine in a few words."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return f"{self.cpu}{threads}"

    def ratio(self, claim: Claim, measured: Measured) -> tuple[float, float] | None:
        """Images per second of the whole pipeline here over the claim's, (least, most); None over a bound."""
        if claim.bound:
            return None
        low, high = claim.fps
        here = measured.middle.pipeline.fps
        return here / high, here / low

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "edgedet": __version__,
            "machine": {**asdict(self.cpu), "memory_gib": self.memory_gib, "threads": self.threads},
            "source": self.source,
            "frames_per_round": self.frames,
            "clock": {"pipeline": PIPELINE_CLOCK, "engine": ENGINE_CLOCK, "latency": LATENCY_CLOCK},
            "results": [m.to_json() for m in self.results],
            "rcnn_parts": {str(path): parts.to_json() for path, parts in self.parts.items()},
            "int8_over_fp32_latency": [asdict(g) for g in self.gains],
            "claims": [
                asdict(c) | {"fps": c.fps, "here_over_claim": [self.ratio(c, m) for m in self.results]}
                for c in CLAIMS
            ],
            "speedups": [asdict(s) for s in SPEEDUPS],
            "caveat": CAVEAT,
        }

    def show(self, console: Console) -> None:
        """The tables, and what must be said beside them."""
        console.print(self._measured_table())
        for g in self.gains:
            share = f"{g.median:.2f} of the latency, median of the rounds ({g.least:.2f} to {g.most:.2f})"
            console.print(f"{printable(g.model)}, INT8 / FP32 on {g.library}: {share}", highlight=False)
        console.print(self._stage_table())
        for path, parts in self.parts.items():
            console.print(self._parts_table(path, parts))
        console.print(self._claim_table())
        for s in SPEEDUPS:
            what = f"{s.system} is {s.factor:g} times faster than {s.baseline} at {s.of}"
            console.print(f"Lecture: {what}; holds for {s.holds_for}.", highlight=False)
        console.print(CAVEAT, highlight=False)

    def _measured_table(self) -> Table:
        from rich.table import Table

        rounds = len(self.results[0].rounds)
        table = Table(
            title=f"Measured here: {self.hardware}; {printable(self.source)}, "
            f"{self.frames} frames x {rounds} rounds",
            title_justify="left",
            show_lines=True,
        )
        table.add_column(overflow="fold")
        for name in (
            "network ms\np50 / p99",
            "engine\nFPS",
            "pipeline\nFPS",
            "pipeline\n/ engine",
            "at best",
            "CPU ms\nnetwork",
            "CPU ms\ndecoding",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for m in self.results:
            r, (least, most) = m.middle, m.ratio_range
            table.add_row(
                f"{printable(m.file.name)}\n{m.engine}\n{m.size[1]} x {m.size[0]}, batch {m.batch}",
                f"{r.latency.p50:.2f}\n/ {r.latency.p99:.2f}",
                f"{r.engine_fps:.1f}",
                f"{r.pipeline.fps:.1f}",
                f"{r.ratio:.3f}\n({least:.3f} to\n{most:.3f})",
                f"{r.bound:.3f}",
                f"{r.network_cpu:.2f}",
                f"{r.decode_cpu:.2f}",
            )
        streams, depth = self.results[0].streams, self.results[0].in_flight
        share = f", on the threads of one of {streams} streams" if streams > 1 else ""
        table.caption = (
            f"A row is of one round, that with the median pipeline / engine; in brackets the range of all.\n"
            f"network ms: {LATENCY_CLOCK}{share}\n"
            f"FPS: {streams} at a time and {depth} in flight, on both sides; engine: {ENGINE_CLOCK}; "
            f"pipeline: {PIPELINE_CLOCK}\n"
            "CPU ms: of one frame, each alone. At best: network / (network + decoding), which no pipeline "
            "exceeds where all cores are busy"
        )
        table.caption_justify = "left"
        return table

    def _stage_table(self) -> Table:
        from rich.table import Table

        table = Table("", "stage", title="Stages of the pipeline in that round, ms", title_justify="left")
        for name in ("p50", "p95", "p99", "CPU a frame"):
            table.add_column(name, justify="right", no_wrap=True)
        for m in self.results:
            report = m.middle.pipeline
            cpu = {name: f"{ms:.2f}" for name, ms in report.cpu_ms.items()}
            rows = [
                (name, f"{t.p50:.2f}", f"{t.p95:.2f}", f"{t.p99:.2f}", cpu.pop(name, ""))
                for name, t in (*report.stages.items(), ("capture to result", report.latency))
            ]
            rows += [(name, "", "", "", ms) for name, ms in cpu.items()]
            heads = (printable(m.file.name), m.engine)
            for i, row in enumerate(rows):
                table.add_row(heads[i] if i < len(heads) else "", *row)
            table.add_section()
        return table

    def _parts_table(self, path: Path, parts: Parts) -> Table:
        from rich.table import Table

        title = f"{printable(path.name)} part by part, on ONNX Runtime: medians of {parts.frames} frames"
        table = Table("part", title=title, title_justify="left")
        table.add_column("ms a frame", justify="right", no_wrap=True)
        table.add_column("covers", overflow="fold")
        for row in parts.rows():
            table.add_row(*row)
        return table

    def _claim_table(self) -> Table:
        from rich.table import Table

        m = self.best
        table = Table(
            "system",
            title="Beside the lecture's claims",
            title_justify="left",
            caption=f"here / claim: FPS of the whole pipeline ({printable(m.file.name)}, {m.engine}) over "
            "the claim's",
            caption_justify="left",
        )
        table.add_column("FPS", justify="right")
        for name in ("hardware", "batch", "the clock covers", "who says it"):
            table.add_column(name, overflow="fold")
        table.add_column("here / claim", justify="right")
        table.add_row(
            f"{printable(m.model)} {m.precision}, whole pipeline",
            f"{m.middle.pipeline.fps:.1f}",
            self.hardware,
            str(m.batch),
            PIPELINE_CLOCK,
            "measured here",
            "",
        )
        table.add_row(
            f"{printable(m.model)} {m.precision}, engine alone",
            f"{m.middle.engine_fps:.1f}",
            self.hardware,
            str(m.batch),
            ENGINE_CLOCK,
            "measured here",
            "",
        )
        table.add_section()
        for i, c in enumerate(CLAIMS):
            if i and c.origin != CLAIMS[i - 1].origin:
                table.add_section()
            table.add_row(
                c.system,
                fps_text(c),
                c.hardware,
                "--" if c.batch is None else str(c.batch),
                f"{c.covers} ({c.note})" if c.note else c.covers,
                c.source if c.origin == "lecture" else f"paper: {c.source}",
                times_text(self.ratio(c, m)),
            )
        return table


def fps_text(claim: Claim) -> str:
    """Images per second as the claim gives them: "45", "0.067", "3 to 10" or "over 1"."""
    low, high = claim.fps
    if claim.bound:
        return f"over {low:.3g}"
    return (
        f"{low:.2g}"
        if low == high and low < 10
        else f"{low:.3g}"
        if low == high
        else f"{low:.2g} to {high:.2g}"
    )


def times_text(ratio: tuple[float, float] | None) -> str:
    """How many times a claim: "285x", "1.9x to 6.3x", or "--" where there is no figure to divide by."""
    if ratio is None:
        return "--"
    low, high = (f"{r:,.0f}x" if r >= 10 else f"{r:.2g}x" for r in ratio)
    return low if low == high else f"{low} to {high}"
