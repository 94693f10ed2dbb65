"""Metrics as tables for people: several models side by side, each compared with the first."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from edgedet.evaluation.metrics import Metrics


def summary_table(results: Mapping[str, Metrics]) -> Table:
    """One row per model: the mean figures in percent, and the change of the 11-point AP against the first."""
    first = next(iter(results.values()))
    title = f"{first.data}: {first.images} images, VOC AP at IoU {first.iou:g}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("11-point", "every-point", "COCO AP", "AP50", "AP75", "best F1 (score)"):
        table.add_column(heading, justify="right", no_wrap=True)
    if len(results) > 1:
        table.add_column("change", justify="right", no_wrap=True)
    for name, m in results.items():
        row = [percent(v) for v in (m.ap11, m.ap_every, m.coco_ap, m.coco_ap50, m.coco_ap75)]
        row.append(f"{percent(m.best_f1)} ({m.best_score:.2f})")
        if len(results) > 1:
            row.append("" if m is first else f"{100 * (m.ap11 - first.ap11):+.2f}")
        table.add_row(name, *row)
    return table


def class_table(results: Mapping[str, Metrics]) -> Table:
    """One row per class: its objects, and each model's 11-point AP in percent."""
    table = Table(title="11-point AP per class", title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("objects", justify="right")
    table.add_column("ignored", justify="right")
    for name in results:
        table.add_column(name, justify="right", overflow="fold")
    found = {name: {c.name: c for c in m.classes} for name, m in results.items()}
    # models may know different classes of the data
    names = dict.fromkeys(c.name for m in results.values() for c in m.classes)
    for label in names:
        one = next(classes[label] for classes in found.values() if label in classes)
        figures = [percent(c[label].ap11) if label in c else "--" for c in found.values()]
        table.add_row(label, str(one.objects), str(one.ignored), *figures)
    if len(names) > 1:
        table.add_row("[bold]mean", "", "", *(f"[bold]{percent(m.ap11)}" for m in results.values()))
    return table


def percent(value: float | None) -> str:
    """0.5612 -> "56.12"; what is not known, "--"."""
    return "--" if value is None else f"{100 * value:.2f}"
