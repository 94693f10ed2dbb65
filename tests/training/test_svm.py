"""One SVM with hard negative mining: its optimum, what it remembers, and that it is that of all negatives."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.training.svm import NEVER, Miner, Mining, Plane, fit

CLOSE = Mining(cost=0.1, bias=1.0, positive_weight=2.0)


def objective(plane: Plane, positive: np.ndarray, negative: np.ndarray, how: Mining) -> float:
    """What an SVM minimises; its bias belongs to a constant feature of `how.bias`."""
    size = 0.5 * (float(plane.weight @ plane.weight) + (plane.bias / how.bias) ** 2)
    lost = how.positive_weight * np.maximum(0, 1 - plane.margins(positive)).sum()
    return float(size + how.cost * (lost + np.maximum(0, 1 + plane.margins(negative)).sum()))


def examples(p: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping: positives around (1, 1, 0...), negatives around 0, most of them far on the other side."""
    rng = np.random.default_rng(seed)
    positive = rng.normal(0, 0.6, (p, 8)) + np.array([1, 1, 0, 0, 0, 0, 0, 0])
    negative = rng.normal(0, 0.6, (n, 8)) - np.array([2, 2, 0, 0, 0, 0, 0, 0]) * rng.random((n, 1))
    return positive.astype(np.float32), negative.astype(np.float32)


def test_two_points_by_hand() -> None:
    """At 1 and -1: the plane half way, margins 1 and -1; the bias is 0."""
    one = np.array([[1.0]], np.float32)
    plane = fit(one, -one, Mining(cost=1e3, bias=1.0, positive_weight=1.0))
    assert plane.weight == pytest.approx([1.0], abs=1e-2)
    assert plane.bias == pytest.approx(0.0, abs=1e-2)


def test_no_other_plane_near_by_is_better() -> None:
    positive, negative = examples(40, 60)
    best = fit(positive, negative, CLOSE)
    least = objective(best, positive, negative, CLOSE)
    rng = np.random.default_rng(1)
    for _ in range(200):
        other = Plane(
            best.weight + rng.normal(0, 0.02, 8).astype(np.float32), best.bias + rng.normal(0, 0.02)
        )
        assert objective(other, positive, negative, CLOSE) > least - 1e-4


def test_a_class_without_examples_is_never_found_and_one_without_negatives_always() -> None:
    positive, negative = examples(5, 5)
    assert (fit(positive[:0], negative, CLOSE).margins(positive) == NEVER).all()
    assert (fit(positive, negative[:0], CLOSE).margins(negative) == 1).all()
    assert (Miner(positive[:0]).result().margins(positive) == NEVER).all()


def test_mining_gives_the_svm_of_all_negatives_and_remembers_few() -> None:
    positive, negative = examples(100, 6000)
    how = Mining(cost=0.1, bias=1.0, refit=100)
    miner = Miner(positive, how)
    for some in np.split(negative, 60):
        both = np.concatenate([positive[:3], some])  # what is no negative is never taken for one
        miner.see(both, np.arange(len(both)) >= 3)
    mined = miner.result()
    everything = fit(positive, negative, how)
    assert miner.fits > 3
    assert len(miner.negative) < 0.5 * len(negative)
    assert (mined.margins(miner.negative) > how.easy).all()
    found, best = (objective(p, positive, negative, how) for p in (mined, everything))
    assert best - 1e-3 <= found < 1.01 * best


def test_false_positives_join() -> None:
    """After the first fit a cluster of negatives lies on the positives' side: then it no longer does."""
    positive = np.full((50, 2), [2.0, 0.0], np.float32) + np.random.default_rng(0).normal(0, 0.1, (50, 2))
    easy = -positive
    hard = np.full((50, 2), [2.0, 3.0]) + np.random.default_rng(1).normal(0, 0.1, (50, 2))
    how = Mining(cost=1.0, bias=1.0, refit=20)
    miner = Miner(positive.astype(np.float32), how)
    everything = np.ones(50, bool)
    miner.see(easy.astype(np.float32), everything)
    assert miner.plane is not None
    assert (miner.plane.margins(hard.astype(np.float32)) > 0).all()
    miner.see(hard.astype(np.float32), everything)
    assert (miner.result().margins(hard.astype(np.float32)) < 0).all()
    assert (miner.result().margins(positive.astype(np.float32)) > 0).all()


def test_memory_is_bounded() -> None:
    rng = np.random.default_rng(0)  # nothing tells them apart: all stay hard
    miner = Miner(rng.normal(size=(50, 4)).astype(np.float32), Mining(refit=100, most=120))
    for _ in range(20):
        miner.see(rng.normal(size=(50, 4)).astype(np.float32), np.ones(50, bool))
        assert len(miner.negative) <= 120


def test_the_same_examples_give_the_same_plane() -> None:
    positive, negative = examples(40, 60)
    first, second = (fit(positive, negative, CLOSE) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.bias == second.bias
