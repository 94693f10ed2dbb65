"""Ridge regression from sums: by hand, against scikit-learn, in any order of parts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import linear_model

from edgedet.training.ridge import Ridge


def test_two_examples_by_hand() -> None:
    """x 0 and 2, t 0 and 2: deviations 1 and -1 of both, so w = 2 / (2 + lambda), and b is what is left."""
    ridge = Ridge(1, 1)
    ridge.add(np.array([[0.0], [2.0]]), np.array([[0.0], [2.0]]))
    weight, bias = ridge.solve(1.0)
    assert weight == pytest.approx(np.array([[2 / 3]]))
    assert bias == pytest.approx([1 - 2 / 3])


@pytest.mark.parametrize("strength", [1e-3, 10.0, 1000.0])
def test_it_is_scikit_learns(strength: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (60, 30)).astype(np.float32)
    t = (x[:, :4] * [1, -2, 0.5, 0] + rng.normal(size=(60, 4)) + 3).astype(np.float32)
    ridge = Ridge(30)
    for rows in np.split(np.arange(60), [7, 7, 40]):
        ridge.add(x[rows], t[rows])
    weight, bias = ridge.solve(strength)
    theirs = linear_model.Ridge(alpha=strength).fit(x.astype(np.float64), t.astype(np.float64))
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-6)


def test_without_an_example_boxes_stay() -> None:
    weight, bias = Ridge(5).solve()
    assert not weight.any() and not bias.any()
    assert (weight.shape, bias.shape) == ((4, 5), (4,))
