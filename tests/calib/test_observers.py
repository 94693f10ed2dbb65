from __future__ import annotations

import numpy as np
import pytest

from edgedet.calib.observers import BINS, LEVELS, METHODS, MagnitudeHistogram
from edgedet.contract.errors import UnknownName


def filled(x: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    histogram.add(x.astype(np.float32))
    return histogram


def int8_error(x: np.ndarray, threshold: float) -> float:
    step = threshold / LEVELS
    return float(np.mean((x - np.clip(np.rint(x / step), -LEVELS, LEVELS) * step) ** 2))


def test_counts_are_numpys():
    x = np.random.default_rng(0).normal(0, 3, 200_001).astype(np.float32)
    h = filled(x)
    assert h.limit == 16.0  # the power of two above the largest
    want, _ = np.histogram(np.abs(x), BINS, (0, h.limit))
    assert h.counts.sum() == x.size
    # a value on an edge may fall on either side of it in float32
    assert np.abs(np.cumsum(h.counts) - np.cumsum(want)).max() <= 2
    assert (h.low, h.high) == (float(x.min()), float(x.max()))


def test_neither_order_nor_chunks_matter():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, s, (3, 50, 7)).astype(np.float32) for s in (0.01, 5, 0.3, 80)]
    one, other, whole = (
        MagnitudeHistogram(),
        MagnitudeHistogram(),
        filled(np.concatenate([p.ravel() for p in parts])),
    )
    for p in parts:
        one.add(p)
    for p in reversed(parts):
        other.add(p)
    assert (one.counts == other.counts).all()
    assert (one.counts == whole.counts).all()
    assert one.limit == other.limit == whole.limit


def test_minmax_is_exact():
    x = np.array([-0.25, 0.0, 3.5])
    assert filled(x).range("minmax") == (-0.25, 3.5)
    assert filled(np.abs(x)).range("minmax") == (0.0, 3.5)


def test_a_tensor_of_zeros():
    for method in METHODS:
        assert filled(np.zeros(100)).range(method) == (0.0, 0.0)


def test_percentile_is_numpys():
    x = np.abs(np.random.default_rng(0).standard_cauchy(500_000))
    found = filled(x).range("percentile").threshold
    want = float(np.quantile(x, 0.9999))
    assert found == pytest.approx(want, abs=2 * filled(x).limit / BINS)


@pytest.mark.parametrize(
    ("values", "clips"),
    [
        (lambda rng: rng.uniform(-1, 1, 100_000), False),
        (lambda rng: np.minimum(np.maximum(rng.normal(3, 3, 100_000), 0), 6), False),
        (lambda rng: np.append(rng.normal(0, 1, 100_000), [60.0]), True),
        (lambda rng: rng.laplace(0, 1, 100_000), True),
    ],
    ids=["uniform", "relu6", "outlier", "laplace"],
)
def test_mse_is_the_best_of_all_thresholds(values, clips):
    x = values(np.random.default_rng(0)).astype(np.float32)
    largest = float(np.abs(x).max())
    chosen = filled(x).range("mse").threshold
    assert (chosen < 0.95 * largest) == clips
    best = min(int8_error(x, t) for t in np.linspace(0.2, 1, 400) * largest)
    assert int8_error(x, chosen) <= 1.02 * best


def test_not_finite_and_unknown():
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(FloatingPointError):
            filled(np.array([1.0, bad]))
    with pytest.raises(UnknownName, match="percentile"):
        filled(np.ones(3)).range("percentil")
