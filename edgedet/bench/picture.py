"""The speed report as a picture: one bar per figure, on a logarithmic axis, with its conditions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedet.bench.claims import CAVEAT, CLAIMS, Claim
from edgedet.bench.figures import Measured
from edgedet.bench.report import SpeedReport, fps_text
from edgedet.contract.errors import MissingDependency, UsageError
from edgedet.contract.files import atomic_path

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError:
    raise MissingDependency("matplotlib", extra="report", purpose="The picture of the speed report") from None

# Okabe and Ito's palette, which colour-blind readers can tell apart
_PIPELINE, _ENGINE, _LECTURE, _PAPER = "#0072B2", "#56B4E9", "#D55E00", "#999999"

_SLOWEST = 0.01  # images per second, where the axis begins


@dataclass(frozen=True)
class _Bar:
    name: str
    low: float
    high: float
    colour: str
    text: str


def draw(report: SpeedReport, path: Path) -> None:
    """Write the picture (its format by the file's ending, PNG as a rule), whole or not at all."""
    groups = [
        ("measured here", [bar for m in report.results for bar in _measured_bars(m)]),
        ("the lecture says", [_claim_bar(c, _LECTURE) for c in CLAIMS if c.origin == "lecture"]),
        ("its papers say", [_claim_bar(c, _PAPER) for c in CLAIMS if c.origin == "paper"]),
    ]
    rows = sum(len(bars) + 1 for _, bars in groups)
    figure = new_figure(13, 0.34 * rows + 1.9)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    ticks, names = [], []
    y = 0.0
    for title, bars in groups:
        axes.text(
            -0.005, y, title, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold"
        )
        y += 1
        for bar in bars:
            axes.barh(y, bar.high, color=bar.colour, height=0.74)
            if bar.low < bar.high:
                axes.plot([bar.low, bar.high], [y, y], color="black", lw=1.2, marker="|", ms=8)
            axes.text(bar.high * 1.08, y, bar.text, va="center", fontsize=8.5)
            ticks.append(y)
            names.append(bar.name)
            y += 1
    axes.set_yticks(ticks, names, fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y - 0.4, -0.7)
    fastest = max(bar.high for _, bars in groups for bar in bars)
    # the texts to the right of the bars need more than a third of the width
    axes.set_xlim(_SLOWEST, fastest * (fastest / _SLOWEST) ** 0.6)
    decades = [10.0**n for n in range(-2, 6) if 10.0**n < 2 * fastest]
    axes.set_xticks(decades, [f"{d:g}" for d in decades])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("images per second (logarithmic)", loc="left")
    axes.grid(axis="x", color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(
        f"Speed on this machine beside the lecture's claims\n{report.hardware}; {report.source}",
        x=0.01,
        ha="left",
        fontsize=12.5,
    )
    figure.supxlabel(CAVEAT, x=0.01, ha="left", fontsize=8.5)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure, its format by the file's ending, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight")


def check_kind(path: Path) -> None:
    """UsageError unless the ending of `path` names a kind of picture."""
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower()[1:] not in kinds:
        raise UsageError(f"Cannot draw {path.name}.", hint="Name the picture .png, .svg or .pdf.")


def _measured_bars(m: Measured) -> list[_Bar]:
    head = f"{m.file.stem} · {m.engine}"
    size = f"{m.size[1]}x{m.size[0]}, batch {m.batch}"
    pipeline, engine = m.middle.pipeline.fps, m.middle.engine_fps
    share = f"{100 * m.middle.ratio:.0f} % of the engine (at best {100 * m.middle.bound:.0f} %)"
    whole = f"{pipeline:.3g} FPS · whole pipeline, {share}"
    return [
        _Bar(head, pipeline, pipeline, _PIPELINE, whole),
        _Bar(
            "",
            engine,
            engine,
            _ENGINE,
            f"{engine:.3g} FPS · engine alone · p50 {m.middle.latency.p50:.1f} ms · {size}",
        ),
    ]


def _claim_bar(c: Claim, colour: str) -> _Bar:
    low, high = c.fps
    batch = "" if c.batch is None else f" · batch {c.batch}"
    return _Bar(c.system, low, high, colour, f"{fps_text(c)} FPS · {c.hardware}{batch} · {c.covers}")
