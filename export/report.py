"""What an export found, as a value: the table, JSON, and a page of HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from edgedet.calib.verdict import Verdict

NOTHING = "--"


@dataclass(frozen=True)
class Row:
    """One precision of the model.

    size in bytes; p50, p99 in milliseconds for one image; accuracy in percent. None: not measured, for
    the reason in the report's notes.
    """

    name: str
    size: int
    p50: float | None = None
    p99: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class ExportReport:
    """Everything measured in one run of `edgedet-export`.

    facts: what was exported, calibrated and quantised, by section; rows: FP32 first, all of them measured
    side by side; verdict: of the last row, None where only FP32 was asked for; notes: why something was
    not measured; wrote: the files, in the order of the table.
    """

    model: str
    precision: str
    target: str
    engine: str
    facts: Mapping[str, Mapping[str, Any]]
    rows: tuple[Row, ...]
    verdict: Verdict | None
    notes: tuple[str, ...]
    wrote: tuple[str, ...]
    sensitivity: tuple[tuple[str, float], ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        """One JSON object, indented; percentages and milliseconds as measured."""
        raw = asdict(self)
        if self.verdict is not None:
            raw["verdict"]["passed"] = self.verdict.passed
        return json.dumps(raw, indent=1, sort_keys=True) + "\n"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table, as text."""
        measure = self.verdict.measure if self.verdict and self.verdict.quantised is not None else "accuracy"
        header = ["", "size", "p50", "p99", measure, "change", ""]
        reference = self.rows[0].accuracy
        rows = []
        for i, row in enumerate(self.rows):
            change = NOTHING
            if row.accuracy is not None and reference is not None:
                change = f"{row.accuracy - reference:+.2f}"
            rows.append(
                [
                    row.name,
                    f"{row.size / 1e6:.1f} MB",
                    NOTHING if row.p50 is None else f"{row.p50:.1f} ms",
                    NOTHING if row.p99 is None else f"{row.p99:.1f} ms",
                    NOTHING if row.accuracy is None else f"{row.accuracy:.2f}",
                    "" if i == 0 else change,
                    self._outcome() if i == len(self.rows) - 1 else "",
                ]
            )
        return header, rows

    def table(self) -> Table:
        """For the terminal."""
        header, rows = self.cells()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i, title in enumerate(header):
            table.add_column(title, justify="left" if i in (0, 6) else "right", no_wrap=i < 6)
        for row in rows:
            table.add_row(*row)
        return table

    def _outcome(self) -> str:
        if self.verdict is None:
            return ""
        passed = self.verdict.passed
        if passed is None:
            return "gate: not measured"
        assert self.verdict.allowed is not None
        return f"at least {self.verdict.allowed:.2f}: {'passed' if passed else 'FAILED'}"

    def to_html(self) -> str:
        """A self-contained page: the table, the facts, the notes."""
        header, rows = self.cells()
        facts = "".join(
            f"<h2>{html.escape(section)}</h2><dl>"
            + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(_plain(v))}</dd>" for k, v in items.items())
            + "</dl>"
            for section, items in {**self.facts, "machine": self.machine}.items()
        )
        notes = "".join(f"<li>{html.escape(n)}</li>" for n in self.notes)
        layers = "".join(
            f"<tr><td>{html.escape(n)}</td><td>{g:+.2f} dB</td></tr>" for n, g in self.sensitivity
        )
        title = html.escape(f"{self.model} · {self.precision} · {self.target}")
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>'
            "body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
            "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}"
            "td:first-child{text-align:left}tr{border-bottom:1px solid #ddd}dl{display:grid;"
            "grid-template-columns:max-content 1fr;gap:0 1rem}dd{margin:0;overflow-wrap:anywhere}</style>"
            f"<h1>{title}</h1><table><tr>{_cells('th', header)}</tr>"
            + "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
            + f"</table><ul>{notes}</ul>{facts}"
            + (f"<h2>gain of leaving one layer in float</h2><table>{layers}</table>" if layers else "")
            + "</html>\n"
        )


def _cells(tag: str, row: list[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
