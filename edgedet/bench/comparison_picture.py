"""A comparison of detectors as a picture: accuracy against speed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from edgedet.bench.comparison import MEASURE, Compared, Comparison
from edgedet.bench.comparison_report import SHORT, conditions
from edgedet.bench.figures import IMAGE_CLOCK
from edgedet.bench.picture import new_figure, save

# Okabe and Ito's palette, which colour-blind readers can tell apart
_COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#0072B2", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "D")
"""Of the engines, where there are several."""


def draw_comparison(c: Comparison, path: Path) -> None:
    """Write the picture (its format by the file's ending), whole or not at all.

    Each detector's FP32 and INT8 are joined by a line; where proposals come from outside the network, a
    dotted line leads to the speed without them. What was measured on fewer classes than the data has is
    left out, and named below.
    """
    shown = [r for r in c.rows if r.score.ap11 is not None and c.comparable(r)]
    libraries = list(dict.fromkeys(r.artifact.library for r in c.rows))
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    colours = dict(zip(dict.fromkeys(r.name for r in shown), _COLOURS * 2, strict=False))
    for name, colour in colours.items():
        for library, marker in zip(libraries, _MARKERS * 2, strict=False):
            mine = [r for r in shown if (r.name, r.artifact.library) == (name, library)]
            axes.plot([_fps(r) for r in mine], [_points(r) for r in mine], color=colour, lw=1.2, zorder=2)
            for r in mine:
                _mark(axes, r, colour, marker)
    for name, colour in colours.items():
        _label(axes, [r for r in shown if r.name == name], colour)
    _legend(axes, libraries, outside=any(r.outside for r in shown))
    _scale(axes, shown)
    figure.suptitle(
        f"Accuracy against speed\n{textwrap.fill(conditions(c), 100)}", x=0.01, ha="left", fontsize=10
    )
    below = [f"AP: {MEASURE}; {c.data}, {c.images} images. Speed: {IMAGE_CLOCK}."]
    left = dict.fromkeys(r.name for r in c.rows if r not in shown)
    below += [f"Not shown: {', '.join(left)} (other classes, or not measured)."] if left else []
    figure.supxlabel("\n".join(textwrap.fill(line, 120) for line in below), x=0.01, ha="left", fontsize=8)
    save(figure, path)


def _fps(r: Compared) -> float:
    return 1e3 / r.image.whole


def _points(r: Compared) -> float:
    return 100 * (r.score.ap11 or 0.0)


def _mark(axes: Any, r: Compared, colour: str, marker: str) -> None:
    """One point: FP32 hollow, INT8 filled."""
    fill = colour if r.precision == "int8" else "white"
    axes.plot(_fps(r), _points(r), marker, ms=9, mec=colour, mfc=fill, mew=1.8, zorder=3)
    if r.outside:
        ends = [_fps(r), 1e3 / r.image.without_proposals]
        axes.plot(ends, [_points(r)] * 2, ":", color=colour, lw=1.4, zorder=1)
        axes.plot(ends[1], _points(r), "|", ms=10, mec=colour, mew=1.8, zorder=1)


def _label(axes: Any, rows: list[Compared], colour: str) -> None:
    """The detector's name, above its highest point."""
    top = max(rows, key=_points)
    place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(top.name, (_fps(top), _points(top)), color=colour, weight="bold", fontsize=10, **place)


def _legend(axes: Any, libraries: list[str], *, outside: bool) -> None:
    axes.plot([], [], "o", ms=8, mec="#555555", mfc="white", mew=1.6, label="FP32")
    axes.plot([], [], "o", ms=8, mec="#555555", mfc="#555555", mew=1.6, label="INT8")
    if outside:
        axes.plot([], [], ":|", color="#555555", lw=1.4, ms=9, mew=1.6, label="without the time of proposals")
    if len(libraries) > 1:
        for library, marker in zip(libraries, _MARKERS * 2, strict=False):
            axes.plot([], [], marker, ms=7, color="#bbbbbb", label=SHORT.get(library, library))
    axes.legend(loc="best", frameon=False, fontsize=9)


def _scale(axes: Any, rows: list[Compared]) -> None:
    """Room around the points, and a tick where a reader looks for one."""
    fps = [1e3 / ms for r in rows for ms in (r.image.whole, r.image.without_proposals)] or [1.0]
    aps = [_points(r) for r in rows] or [0.0]
    axes.set_xlim(min(fps) / 1.6, max(fps) * 1.6)
    room = max(2.0, 0.15 * (max(aps) - min(aps)))
    axes.set_ylim(min(aps) - 1.5 * room, max(aps) + 1.5 * room)
    steps = [d * 10.0**n for n in range(-3, 6) for d in (1, 2, 5)]
    low, high = axes.get_xlim()
    ticks = [t for t in steps if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("images per second, all steps (logarithmic)")
    axes.set_ylabel("11-point AP")
    axes.grid(color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
