"""Metrics as tables for people: several models side by side, each compared with the first."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from edgedet.contract.text import printable
from edgedet.evaluation.metrics import ClassPixels, LocalisationMetrics, Metrics, SegmentationMetrics


def summary_table(results: Mapping[str, Metrics]) -> Table:
    """One row per model: the mean figures in percent, and the change of the 11-point AP against the first."""
    first = next(iter(results.values()))
    title = f"{first.data}: {first.images} images, VOC AP at IoU {first.iou:g}"
    table = Table(title=_name(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("11-point", justify="right")  # may wrap: "not measured"
    for heading in ("every-point", "COCO AP", "AP50", "AP75", "best F1 (score)"):
        table.add_column(heading, justify="right", no_wrap=True)
    if len(results) > 1:
        table.add_column("change", justify="right", no_wrap=True)
    for name, m in results.items():
        row = [headline(m.ap11)]
        row += [percent(v) for v in (m.ap_every, m.coco_ap, m.coco_ap50, m.coco_ap75)]
        row.append(percent(m.best_f1) + ("" if m.best_score is None else f" ({m.best_score:.2f})"))
        if len(results) > 1:
            row.append("" if m is first else change(m.ap11, first.ap11))
        table.add_row(_name(name), *row)
    return table


def class_table(results: Mapping[str, Metrics]) -> Table:
    """One row per class: its objects, and each model's 11-point AP in percent."""
    table = Table(title="11-point AP per class", title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("objects", justify="right")
    table.add_column("ignored", justify="right")
    for name in results:
        table.add_column(_name(name), justify="right", overflow="fold")
    found = {name: {c.name: c for c in m.classes} for name, m in results.items()}
    # models may know different classes of the data
    names = dict.fromkeys(c.name for m in results.values() for c in m.classes)
    for label in names:
        one = next(classes[label] for classes in found.values() if label in classes)
        figures = [percent(c[label].ap11) if label in c else "--" for c in found.values()]
        table.add_row(_name(label), str(one.objects), str(one.ignored), *figures)
    if len(names) > 1:
        table.add_row("[bold]mean", "", "", *(f"[bold]{percent(m.ap11)}" for m in results.values()))
    return table


def map_summary_table(results: Mapping[str, SegmentationMetrics]) -> Table:
    """One row per model: the mean figures in percent, and the change of the mean IoU against the first."""
    first = next(iter(results.values()))
    table = Table(
        title=_name(f"{first.data}: {first.images} images"), title_justify="left", box=None, pad_edge=False
    )
    table.add_column("", overflow="fold")
    bands = [f"IoU within {t.radius} px" for t in first.trimaps]
    table.add_column("mean IoU", justify="right")  # may wrap: "not measured"
    for heading in ("mean Dice", "pixel accuracy", *bands):
        table.add_column(heading, justify="right", no_wrap=True)
    if len(results) > 1:
        table.add_column("change", justify="right", no_wrap=True)
    for name, m in results.items():
        row = [headline(m.mean_iou), percent(m.mean_dice), percent(m.pixel_accuracy)]
        row += [percent(t.mean_iou) for t in m.trimaps]
        if len(results) > 1:
            row.append("" if m is first else change(m.mean_iou, first.mean_iou))
        table.add_row(_name(name), *row)
    return table


def map_class_table(results: Mapping[str, SegmentationMetrics]) -> Table:
    """One row per class: its share of the truth, and each model's IoU and Dice in percent."""
    table = Table(title="IoU / Dice per class", title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("of the truth", justify="right")
    for name in results:
        table.add_column(_name(name), justify="right", overflow="fold")
    found = {name: {c.name: c for c in m.classes} for name, m in results.items()}
    first = next(iter(results.values()))
    for label in dict.fromkeys(c.name for m in results.values() for c in m.classes):
        figures = [_iou_dice(c.get(label)) for c in found.values()]
        known = next(classes[label] for classes in found.values() if label in classes)
        table.add_row(
            _name(label), f"{percent(known.truth / first.pixels if first.pixels else None)} %", *figures
        )
    means = (f"[bold]{percent(m.mean_iou)} / {percent(m.mean_dice)}" for m in results.values())
    table.add_row("[bold]mean", "", *means)
    return table


def localisation_summary_table(results: Mapping[str, LocalisationMetrics]) -> Table:
    """One row per model: the figures in percent, and the change of the mean IoU against the first."""
    first = next(iter(results.values()))
    title = f"{first.data}: {first.images} images with one object"
    table = Table(title=_name(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("mean IoU", justify="right")  # may wrap: "not measured"
    for heading in ("right class", "right class, IoU >= 0.5"):
        table.add_column(heading, justify="right", no_wrap=True)
    if len(results) > 1:
        table.add_column("change", justify="right", no_wrap=True)
    for name, m in results.items():
        row = [headline(m.mean_iou), percent(m.class_accuracy), percent(m.localised)]
        if len(results) > 1:
            row.append("" if m is first else change(m.mean_iou, first.mean_iou))
        table.add_row(_name(name), *row)
    return table


def localisation_class_table(results: Mapping[str, LocalisationMetrics]) -> Table:
    """One row per class: its images, and each model's mean IoU and share of right classes in percent."""
    table = Table(title="mean IoU / right class, per class", title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("images", justify="right")
    for name in results:
        table.add_column(_name(name), justify="right", overflow="fold")
    found = {name: {c.name: c for c in m.classes} for name, m in results.items()}
    for label in dict.fromkeys(c.name for m in results.values() for c in m.classes):
        of_models = [classes.get(label) for classes in found.values()]
        figures = [f"{percent(c.mean_iou)} / {percent(c.class_accuracy)}" if c else "--" for c in of_models]
        table.add_row(_name(label), str(next(c.images for c in of_models if c)), *figures)
    means = (f"[bold]{percent(m.mean_iou)} / {percent(m.class_accuracy)}" for m in results.values())
    table.add_row("[bold]all images", "", *means)
    return table


def _iou_dice(figures: ClassPixels | None) -> str:
    return "--" if figures is None else f"{percent(figures.iou)} / {percent(figures.dice)}"


def _name(name: str) -> Text:
    """A name from a file or a path as it is: no markup, no escape sequence in it is obeyed."""
    return Text(printable(name))


def percent(value: float | None) -> str:
    """0.5612 -> "56.12"; what is not known, "--"."""
    return "--" if value is None else f"{100 * value:.2f}"


def headline(value: float | None) -> str:
    """As `percent`; what is not known, "not measured"."""
    return "not measured" if value is None else percent(value)


def change(value: float | None, first: float | None) -> str:
    """The difference in percent, "-1.25"; "--" where either is not known."""
    return "--" if value is None or first is None else f"{100 * (value - first):+.2f}"
