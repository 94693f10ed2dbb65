"""A comparison of detectors for people: the same tables on a terminal and as Markdown for a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.bench.claims import CAVEAT, SPEEDUPS, Claim
from edgedet.bench.comparison import MEASURE, Compared, Comparison, Faster, claims, difference
from edgedet.bench.figures import IMAGE_CLOCK, PIPELINE_CLOCK
from edgedet.bench.report import fps_text, times_text
from edgedet.contract.text import printable

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "--"

STEPS = {"preprocess": "resize", "proposals": "proposals", "network": "network", "postprocess": "decode, NMS"}
"""The predictor's steps, and what they are called here."""

_TITLES = {"rcnn": "R-CNN", "fast-rcnn": "Fast R-CNN", "faster-rcnn": "Faster R-CNN"}

SHORT = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Grid:
    """One table: what it is about, its header, rows of plain text, and what must be read beside it.

    left: how many columns are text; all others are figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: int = 1


def grids(c: Comparison) -> list[Grid]:
    """The tables of a comparison, in order."""
    found = [_summary(c), _steps(c)]
    if any(r.mask_score for r in c.rows):
        found.insert(1, _masks(c))
    if c.parts:
        found.append(_parts(c))
    return [*found, _published(c)]


def show(c: Comparison, console: Console) -> None:
    """The tables on a terminal, and what must be said beside them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for grid in grids(c):
        title = Text(printable(grid.title), style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(grid.header):
            text = i < grid.left
            table.add_column(
                Text(name), justify="left" if text else "right", overflow="fold", no_wrap=not text
            )
        before = ""
        for row in grid.rows:
            if before and row[0] != before:
                table.add_section()
            cells = ["" if row[0] == before else row[0], *row[1:]]
            table.add_row(*(Text(printable_lines(cell)) for cell in cells))
            before = row[0]
        console.print(table)
        for note in grid.notes:
            console.print(Text(printable(note)))
        console.print()
    for m in c.missing:
        console.print(Text(f"not measured  {printable(m.what)}: {printable(m.why)}"))
    console.print(CAVEAT, highlight=False)


def markdown(c: Comparison) -> str:
    """The same as Markdown."""
    parts = []
    for grid in grids(c):
        lines = [f"**{_escaped(grid.title)}**", "", _row(grid.header)]
        lines.append(_row(["---" if i < grid.left else "---:" for i in range(len(grid.header))]))
        lines += [_row([_escaped(cell) for cell in row]) for row in grid.rows]
        parts.append("\n".join(lines))
        if grid.notes:
            parts.append("\n".join(f"- {_escaped(note)}" for note in grid.notes))
    if c.missing:
        parts.append("\n".join(f"- not measured: {_escaped(m.what)}: {_escaped(m.why)}" for m in c.missing))
    return "\n\n".join([*parts, CAVEAT]) + "\n"


def conditions(c: Comparison) -> str:
    """What the speed was measured with, in one sentence."""
    speed = c.rows[0].speed
    rounds = len(speed.rounds)
    counts = sorted(r.speed.middle.pipeline.frames for r in c.rows)
    frames = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    precisions = (" fp32", " int8")  # which the rows say
    names = [r.speed.engine for r in c.rows]
    names = [n[:-5] if n.endswith(precisions) else n for n in names]
    engines = ", ".join(dict.fromkeys(names))
    at_once = f"{speed.streams} network{'s' * (speed.streams != 1)} at a time, {speed.in_flight} in flight"
    return (
        f"{c.hardware}; {engines}; {c.source}, {frames} frames x {rounds} round{'s' * (rounds != 1)},"
        f" in turns; input {_sizes(c)}, batch {speed.batch}, {at_once}"
    )


def _sizes(c: Comparison) -> str:
    return ", ".join(sorted({f"{r.speed.size[1]}x{r.speed.size[0]}" for r in c.rows}))


def _summary(c: Comparison) -> Grid:
    header = (
        "detector",
        "",
        "AP",
        "change",
        "ms an image,\nall steps",
        "without\nproposals",
        "pipeline\nFPS",
        "file\nMB",
    )
    rows = []
    for r in c.rows:
        full = c.reference(r)
        change = difference(r.score.ap11, full.score.ap11) if full else None
        rows.append(
            (
                r.name,
                _what(c, r),
                _percent(r.score.ap11) + ("" if c.comparable(r) else " *"),
                "" if full is None else _change(change),
                _ms(r.image.whole),
                _ms(r.image.without_proposals) if r.outside else "",
                _figure(r.speed.middle.pipeline.fps),
                f"{r.artifact.size / 1e6:.1f}",
            )
        )
    notes = [
        f"Measured on: {conditions(c)}.",
        f"AP: {MEASURE}, in points; {c.data}, {c.images} images{_known(c)}. change: against FP32 on the same"
        " engine.",
        f"ms: {IMAGE_CLOCK}. pipeline: {PIPELINE_CLOCK}. MB: all files of the artifact.",
    ]
    notes += [
        f"* {r.name}: AP over {len(r.score.classes)} of the {r.score.of} classes ({_some(r.score.classes)}):"
        " not to be compared"
        for r in c.rows
        if not c.comparable(r) and r.precision == "fp32"
    ]
    notes += [f"{r.name}: AP not measured: {r.score.not_measured}" for r in c.rows if r.score.not_measured]
    notes += [
        f"{r.name} looks at {r.artifact.spec.proposals.count} proposals an image at most, made by"
        f" {r.artifact.spec.proposals.method.replace('_', ' ')}"
        for r in c.rows
        if r.artifact.spec.proposals and r.precision == "fp32"
    ]
    return Grid("Detectors compared", header, tuple(rows), tuple(dict.fromkeys(notes)), 2)


def _masks(c: Comparison) -> Grid:
    rows = []
    for r in c.rows:
        if r.mask_score is not None:
            full = c.reference(r)
            first = full.mask_score.mask_ap50 if full and full.mask_score else None
            rows.append(
                (
                    r.name,
                    _what(c, r),
                    _percent(r.mask_score.box_ap50),
                    _percent(r.mask_score.mask_ap50),
                    "" if full is None else _change(difference(r.mask_score.mask_ap50, first)),
                )
            )
    note = (
        "AP50: COCO's at IoU 0.5, over boxes and over masks, in points. change: of the masks, against FP32."
    )
    return Grid(
        f"With masks: {c.mask_data}",
        ("detector", "", "box AP50", "mask AP50", "change"),
        tuple(rows),
        (note,),
        2,
    )


def _steps(c: Comparison) -> Grid:
    names = [name for name in STEPS if any(name in r.image.steps for r in c.rows)]
    names += [name for name in dict.fromkeys(s for r in c.rows for s in r.image.steps) if name not in STEPS]
    rows = tuple(
        (
            r.name,
            _what(c, r),
            *(_ms(r.image.steps[name]) if name in r.image.steps else "" for name in names),
            _ms(r.speed.middle.latency.p50),
            _ms(r.speed.middle.latency.p99),
        )
        for r in c.rows
    )
    header = ("detector", "", *(STEPS.get(n, n) for n in names), "network alone,\np50", "p99")
    notes = ["Medians of one image at a time, so they need not add up; network alone: inputs ready."]
    if any(r.artifact.spec.stages for r in c.rows):
        notes.append("What runs after NMS (mask-rcnn's mask head) is in decode, NMS.")
    return Grid("Where the time goes, ms an image", header, rows, tuple(notes), 2)


def _parts(c: Comparison) -> Grid:
    several = len({path.name for path in c.parts}) < len(c.parts)  # of several engines
    files = {str(Path(*path.parts[-2:])) if several else path.name: parts for path, parts in c.parts.items()}
    first = next(iter(files.values())).rows()
    figures = zip(*([ms for _, ms, _ in parts.rows()] for parts in files.values()), strict=True)
    rows = tuple((name, covers, *ms) for (name, _, covers), ms in zip(first, figures, strict=True))
    frames = next(iter(files.values())).frames
    note = f"On ONNX Runtime, medians of {frames} frames; the graph is cut at the features."
    return Grid("R-CNN part by part, ms an image", ("part", "covers", *files), rows, (note,), 2)


def _published(c: Comparison) -> Grid:
    columns = c.columns
    header = ("system", "published", "its conditions", *(f"here,\n{_column(c, col)}" for col in columns))
    measured = {r.name for r in c.rows}
    shown = [claim for claim in claims() if claim.origin == "lecture" or claim.model in measured]
    rows = [*_speedups(c), *(_claim(c, claim) for claim in shown)]
    notes = (
        "here: one image at a time, by the published clock (all steps where that is not said). x: how many"
        " times faster, in brackets the range of the rounds; or how many times the published FPS.",
        f"The networks differ too: here they stand on a small EfficientNet, with an input of {_sizes(c)}.",
        "The lecture's 213 holds between 47 s and 0.22 s of the paper, and never for the lecture's 15 s.",
    )
    return Grid("Beside what the lecture and its papers say", header, tuple(rows), notes, 3)


def _speedups(c: Comparison) -> Iterator[tuple[str, ...]]:
    found: dict[tuple[str, str], dict[tuple[str, str], Faster]] = {}
    for f in c.faster():
        found.setdefault((f.system, f.baseline), {})[f.library, f.precision] = f
    for s in SPEEDUPS:
        ours = found.get(s.models, {}) if s.of == "test" else {}
        here = [_times(ours[col].without_proposals) if col in ours else NOTHING for col in c.columns]
        conditions = f"{s.holds_for}; {s.source}"
        conditions += "" if s.of == "test" else "; not measured by edgedet-bench"
        clock = "at test, without proposals" if s.of == "test" else f"at {s.of}"
        yield (f"{s.system} over {s.baseline}, {clock}", f"{s.factor:g}x", conditions, *here)
    for (system, baseline), ours in found.items():
        here = [_times(ours[col].all_steps) if col in ours else NOTHING for col in c.columns]
        pair = f"{_TITLES[system]} over {_TITLES[baseline]}"
        yield (f"{pair}, all steps", NOTHING, "measured here only", *here)


def _claim(c: Comparison, claim: Claim) -> tuple[str, ...]:
    batch = "" if claim.batch is None else f", batch {claim.batch}"
    note = f" ({claim.note})" if claim.note else ""
    who = claim.source if claim.origin == "lecture" else f"paper: {claim.source}"
    cells = []
    for column in c.columns:
        found = c.beside(claim, column)
        cells.append(
            NOTHING if found is None else f"{times_text((found[1],) * 2)}\n({_figure(found[0])} FPS)"
        )
    return (
        claim.system,
        f"{fps_text(claim)} FPS",
        f"{claim.hardware}{batch}; {claim.covers}{note}; {who}",
        *cells,
    )


def _what(c: Comparison, r: Compared) -> str:
    return _column(c, r.column)


def _column(c: Comparison, column: tuple[str, str]) -> str:
    """The precision, and the engine where there are several."""
    library, precision = column
    several = len({name for name, _ in c.columns}) > 1
    return f"{precision.upper()}, {SHORT.get(library, library)}" if several else precision.upper()


def _known(c: Comparison) -> str:
    """Of how many classes, where the data has more."""
    of = max(r.score.of for r in c.rows)
    known = c.classes
    return "" if len(known) == of else f", {len(known)} of its {of} classes ({_some(known)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _times(spread: Sequence[float]) -> str:
    middle, least, most = (f"{v:.0f}" if v >= 10 else f"{v:.1f}" for v in spread)
    return f"{middle}x\n({least} to {most})"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.2f}"


def _change(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:+.2f}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def printable_lines(text: str) -> str:
    """`printable`, line by line: the breaks are ours."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    """Fit for a cell of a Markdown table."""
    return printable_lines(text).replace("\n", " ").replace("|", "\\|").replace("*", "\\*")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |"
