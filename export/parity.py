"""Whether the exported graph computes what the eager model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgedet.calib.observe import cpu_session
from edgedet.contract.errors import ParityError
from edgedet.contract.spec import ModelSpec
from edgedet.export.noise import noise
from edgedet.models.base import Model

Array: TypeAlias = npt.NDArray[Any]

HEADS_RTOL, HEADS_ATOL = 1e-3, 1e-5
"""Of a value itself, and of its head's largest (at least 1): sums are rounded relative to what is added."""

UNPAIRED = 0.02
"""Share of the regions that may be others. Where two are ranked alike to the last digits, which of them is
the last that is proposed, or suppresses the other, is a matter of rounding."""


@dataclass(frozen=True)
class Tolerance:
    """How results of one role are compared: what the difference is called, and how much is allowed."""

    unit: str
    allowed: float
    difference: Callable[[Array, Array], float]


@dataclass(frozen=True)
class Parity:
    """Differences: the largest of the heads, and of each result by its role, in the unit of TOLERANCES.

    unpaired: the share of the regions that the other does not propose; 0 where there are no regions.
    """

    heads: float
    results: dict[str, float]
    unpaired: float = 0.0

    def __str__(self) -> str:
        text = ", ".join(f"{role} to {d:.0e}{TOLERANCES[role].unit}" for role, d in self.results.items())
        return text + (f"; {100 * self.unpaired:.1f} % of the regions are others" if self.unpaired else "")


def compare(model: Model, spec: ModelSpec, decoded: onnx.ModelProto) -> Parity:
    """Run both on the same batch of two noise images, with proposals where the model takes them.

    The rows of a two-stage model, one for each region, are compared region by region: which is which, their
    boxes say. Where two are ranked alike to the last digits, rows change places.

    Args:
        model: eager, in eval mode.
        spec: of the model as a network that ends at its heads.
        decoded: image -> heads -> results; the heads are inner tensors of it.

    Raises:
        ParityError: heads differ by more than 1e-3 |x| + 1e-5 of the head's largest (at least 1), a
            result by more than TOLERANCES allows, or more than 2 % of the regions are others.
    """
    inputs = noise(spec, 2)
    training = model.training
    model.eval()
    with torch.no_grad():
        heads = model(*map(torch.from_numpy, inputs.values()))
        results = model.decode(heads, spec.input.size)
    model.train(training)

    names = [o.name for o in spec.outputs]
    found = cpu_session(decoded, names).run([*names, *results], inputs)
    got = dict(zip([*names, *results], found, strict=True))
    want = {name: tensor.numpy() for name, tensor in {**heads, **results}.items()}
    largest = {name: float(np.abs(want[name]).max()) for name in names}
    unpaired = 0.0
    regions = next((o.name for o in spec.outputs if o.role == "proposals"), None)
    if regions is not None:
        image, row, other = _pairs(want[regions], got[regions])
        count = want[regions].shape[1]
        unpaired = 1 - len(row) / want[regions][..., 0].size
        if unpaired > UNPAIRED:
            raise ParityError(
                f"{100 * unpaired:.1f} % of the exported graph's regions are others than the eager model's,"
                f" allowed are {100 * UNPAIRED:g} %.",
                hint=_HINT,
            )
        # everything with a row for each region
        rows = {o.name for o in spec.outputs if o.role != "features" and o.shape[1] == count} | {*results}
        want |= {name: want[name][image, row] for name in rows}
        got |= {name: got[name][image, other] for name in rows}
    worst = 0.0
    for name in names:
        difference = _largest(got[name], want[name])
        worst = max(worst, difference)
        least = HEADS_ATOL * max(1.0, largest[name])
        if not np.allclose(got[name], want[name], rtol=HEADS_RTOL, atol=least):
            raise _disagreement(f"head {name!r}", difference, f"{least:.0e} + 1e-3 |x|")
    differences = {}
    for role in results:
        rule = TOLERANCES[role]
        differences[role] = rule.difference(got[role], want[role])
        if not differences[role] <= rule.allowed:
            raise _disagreement(f"result {role!r}", differences[role], f"{rule.allowed}{rule.unit}")
    return Parity(worst, differences, unpaired)


def _pairs(want: Array, got: Array) -> tuple[Array, Array, Array]:
    """Which rows hold the same box: (N, P, 4) twice -> image, row of `want`, row of `got`, each (n,) int.

    A row has the nearest one that is free, if that is as near as heads must be. Empty rows have each other.
    """
    found = []
    least = HEADS_ATOL * max(1.0, float(np.abs(want).max()))
    for image, (boxes, others) in enumerate(zip(want, got, strict=True)):
        free = np.ones(len(others), bool)
        for row, box in enumerate(boxes):
            distance = np.where(free, np.abs(others - box).max(axis=1), np.inf)
            other = int(distance.argmin())
            if free[other] and np.allclose(others[other], box, rtol=HEADS_RTOL, atol=least):
                free[other] = False
                found.append((image, row, other))
    image_, row_, other_ = np.array(found, np.int64).reshape(-1, 3).T
    return image_, row_, other_


def _largest(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max(initial=0))


def _share(a: Array, b: Array) -> float:
    return float((a != b).mean())


TOLERANCES = {
    "boxes": Tolerance(" px", 1e-2, _largest),
    "scores": Tolerance("", 1e-3, _largest),
    # where two logits are equal to the last digits, the larger one is a matter of rounding
    "class_map": Tolerance(" of the pixels", 1e-3, _share),
}


def _disagreement(what: str, got: float, allowed: str) -> ParityError:
    return ParityError(
        f"The exported graph's {what} differs from the eager model's by {got:.3g}, allowed is {allowed}.",
        hint=_HINT,
    )


_HINT = "Another version of torch or onnxsim may export it right; please report it."
