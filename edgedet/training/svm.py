"""One linear SVM for a class, trained on more regions than memory holds, by hard negative mining.

Nearly all regions show something else than a class, and nearly all of those are easily told apart. So the SVM
is trained on all positives and on few negatives; what it then takes for the class although it is not
(Girshick et al. 2014, 2.3; Felzenszwalb et al. 2010; lecture, "Hard negative mining") joins them, image by
image, and it is trained again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import MissingDependency

Floats: TypeAlias = npt.NDArray[np.float32]

NEVER = -10.0
"""The margin of a class of which there is no example: its sigmoid is nearly 0."""


@dataclass(frozen=True)
class Mining:
    """How an SVM is trained; the numbers are those of the paper's implementation.

    cost: C, of a violated margin, for features of a norm of about 20 (`NORM`). positive_weight: a positive's
    violation counts so much more. bias: of the constant feature that gives the bias. hard: a negative of a
    larger margin joins; easy: one of a smaller leaves. refit: the SVM is trained again when so many joined.
    most: positives, and negatives, that are held in memory.
    """

    cost: float = 1e-3
    positive_weight: float = 2.0
    bias: float = 10.0
    hard: float = -1.0
    easy: float = -1.2
    refit: int = 2000
    most: int = 8000


NORM = 20.0
"""Of a region's features on average, which the numbers of `Mining` and of the regression are made for."""


@dataclass(frozen=True, eq=False)
class Plane:
    """margin = weight . features + bias."""

    weight: Floats
    bias: float

    def margins(self, features: Floats) -> Floats:
        """(n, D) -> (n,)."""
        found: Floats = features @ self.weight + np.float32(self.bias)
        return found


def fit(positive: Floats, negative: Floats, how: Mining) -> Plane:
    """The SVM of these examples (p, D) and (n, D): 1/2 |w|^2 + C sum max(0, 1 - y (w x + b)).

    The same examples give the same plane. Without positives none is ever found, without negatives all are.
    """
    dimensions = positive.shape[1]
    if not len(positive) or not len(negative):
        return Plane(np.zeros(dimensions, np.float32), NEVER if not len(positive) else 1.0)
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC
    except ImportError:
        raise MissingDependency("scikit-learn", extra="train", purpose="Training R-CNN's SVMs") from None
    machine = LinearSVC(
        C=how.cost,
        loss="hinge",
        dual=True,
        intercept_scaling=how.bias,
        class_weight={1: how.positive_weight},
        random_state=0,
    )
    with warnings.catch_warnings():
        # after 1000 passes over the examples what is left to gain is in the last digits
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)]))
    return Plane(machine.coef_[0].astype(np.float32), float(machine.intercept_[0]))


class Miner:
    """Trains one SVM on positives and a stream of negatives.

    Args:
        positive: (p, D), all of them.
    """

    def __init__(self, positive: Floats, how: Mining | None = None) -> None:
        self.how = how or Mining()
        self.positive = positive
        self.negative = positive[:0]
        self.plane: Plane | None = None
        self.fits = 0
        self._joined: list[Floats] = []
        self._count = 0

    def see(self, features: Floats, negative: npt.NDArray[np.bool_]) -> None:
        """The regions of one image (n, D), and which of them are negatives (n,)."""
        chosen = negative
        if self.plane is not None:
            chosen = negative & (self.plane.margins(features) > self.how.hard)
        if chosen.any():
            self._joined.append(features[chosen])
            self._count += int(chosen.sum())
        if self._count >= self.how.refit:
            self._fit()

    def result(self) -> Plane:
        """After the last image."""
        if self._count or self.plane is None:
            self._fit()
        assert self.plane is not None
        return self.plane

    def _fit(self) -> None:
        """Train again; then let those go that were easy, and the easiest of too many."""
        self.negative = np.concatenate([self.negative, *self._joined])
        self._joined, self._count = [], 0
        self.plane = fit(self.positive, self.negative, self.how)
        self.fits += 1
        margins = self.plane.margins(self.negative)
        order = np.argsort(-margins, kind="stable")[: self.how.most]
        self.negative = self.negative[order[margins[order] > self.how.easy]]
