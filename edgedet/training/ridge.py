"""Linear regression of boxes, solved rather than trained (Girshick et al. 2014, appendix C).

w = argmin sum (t - w x - b)^2 + lambda |w|^2 has a closed form that needs of all examples only sums of
products, so any number of them is seen one image after the other.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]

STRENGTH = 1000.0
"""lambda: the paper's, for features of a norm of about 20 (`svm.NORM`)."""


class Ridge:
    """Sums over examples; `solve` gives the regression. The bias is not held small.

    Args:
        dimensions: D, of x. outputs: of t.
    """

    def __init__(self, dimensions: int, outputs: int = 4) -> None:
        self.count = 0
        self._x, self._t = np.zeros(dimensions), np.zeros(outputs)
        self._xx, self._xt = np.zeros((dimensions, dimensions)), np.zeros((dimensions, outputs))

    def add(self, x: npt.NDArray[np.floating], t: npt.NDArray[np.floating]) -> None:
        """(n, D) and what it should give (n, outputs)."""
        exact, wanted = x.astype(np.float64), t.astype(np.float64)
        self.count += len(x)
        self._x += exact.sum(axis=0)
        self._t += wanted.sum(axis=0)
        self._xx += exact.T @ exact
        self._xt += exact.T @ wanted

    def solve(self, strength: float = STRENGTH) -> tuple[Doubles, Doubles]:
        """Weight (outputs, D) and bias (outputs,); all 0 without an example.

        (X^T X + lambda I)^-1 X^T T of what deviates from the means. strength: lambda, above 0.
        """
        if not self.count:
            return np.zeros((len(self._t), len(self._x))), np.zeros(len(self._t))
        x, t = self._x / self.count, self._t / self.count
        xx = self._xx - self.count * np.outer(x, x) + strength * np.eye(len(x))
        weight = np.ascontiguousarray(np.linalg.solve(xx, self._xt - self.count * np.outer(x, t)).T)
        return weight, t - weight @ x
