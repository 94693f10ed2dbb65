"""Names come from files: in tables neither markup nor escape sequences in them are obeyed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgedet.evaluation.metrics import (
    ClassLocalisation,
    ClassMetrics,
    ClassPixels,
    LocalisationMetrics,
    Metrics,
    SegmentationMetrics,
)
from edgedet.evaluation.report import (
    class_table,
    localisation_class_table,
    localisation_summary_table,
    map_class_table,
    map_summary_table,
    summary_table,
)


@pytest.mark.parametrize(
    ("name", "shown"), [("a[/b]", "a[/b]"), ("a[bold]", "a[bold]"), ("\x1b[31ma", r"\x1b[31ma")]
)
def test_names_stay_what_they_are(name: str, shown: str) -> None:
    classes = (ClassMetrics(name, 1, 0, 1, 0.5, 0.5), ClassMetrics("other", 1, 0, 1, 0.5, 0.5))
    boxes = Metrics(name, "0", 1, 0, 0.5, classes)
    pixels = SegmentationMetrics(name, "0", 1, 0, 4, 1.0, (ClassPixels(name, 4, 4, 1.0, 1.0),))
    places = LocalisationMetrics(name, "0", 1, 0, 0.5, 1.0, 1.0, (ClassLocalisation(name, 1, 0.5, 1.0, 1.0),))
    tables = (
        (summary_table, boxes),
        (class_table, boxes),
        (map_summary_table, pixels),
        (map_class_table, pixels),
        (localisation_summary_table, places),
        (localisation_class_table, places),
    )
    for table, metrics in tables:
        out = io.StringIO()
        Console(file=out, width=200).print(table({name: metrics}))  # type: ignore[operator]
        assert out.getvalue().count(shown) == 2  # the model, and the data or the class
        assert "\x1b" not in out.getvalue()
