"""Durations at constant memory, and the report."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from edgedet.contract.frames import Notice
from edgedet.runtime import Histogram, Report


def test_percentiles_are_within_one_percent() -> None:
    durations = np.random.default_rng(0).lognormal(-5, 1.5, 5000)
    histogram = Histogram()
    for d in durations:
        histogram.add(float(d))
    for q in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = np.quantile(durations, q, method="inverted_cdf")
        assert histogram.percentile(q) == pytest.approx(exact, rel=0.0101)
    timing = histogram.timing()
    assert timing.count == 5000
    assert timing.mean == pytest.approx(1e3 * durations.mean(), rel=1e-4)
    assert timing.max == pytest.approx(1e3 * durations.max(), rel=1e-4)


def test_extremes_have_a_place() -> None:
    histogram = Histogram()
    for d in (0.0, 1e-9, 5e4):
        histogram.add(d)
    assert histogram.count == 3
    assert histogram.percentile(0.5) <= 2e-6
    assert histogram.percentile(1.0) >= 900


def test_nothing_measured_is_zero() -> None:
    assert Histogram().percentile(0.5) == 0
    assert Histogram().timing().count == 0


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    before = len(histogram._buckets)
    for i in range(10_000):
        histogram.add(i * 1e-4)
    assert len(histogram._buckets) == before


def make_report(**changes: object) -> Report:
    histogram = Histogram()
    histogram.add(0.02)
    values: dict[str, object] = {
        "model": "yolo",
        "engine": "OpenVINO CPU int8",
        "source": "clip.mp4",
        "frames": 1,
        "dropped": 2,
        "seconds": 0.5,
        "fps": 2.0,
        "lost": 1,
        "cpu_ms": {"network and libraries": 3.25},
        "stages": {"network": histogram.timing(), "video": Histogram().timing()},
        "latency": histogram.timing(),
    }
    return Report(**(values | changes))  # type: ignore[arg-type]


def test_the_report_is_json() -> None:
    back = json.loads(make_report(notices=(Notice("gone", "lost", 5.0),)).to_json())
    assert back["stages"]["network"]["count"] == 1
    assert back["notices"] == [{"text": "gone", "kind": "lost", "utc": 5.0}]


def test_the_table_shows_every_stage_and_what_was_not_measured() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(make_report(signal=2).table())
    text = console.export_text()
    assert "network" in text
    assert "3.25" in text
    assert "3.2 ms of CPU a frame" in text
    assert "1 lost" in text
    assert "20." in text
    assert "--" in text  # the video stage had nothing to time
    assert "2 dropped" in text
    assert "interrupted" in text
