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


@dataclass(frozen=True)
class Tolerance:
    """How results of one role are compared: what the difference is called, and how much is allowed."""

    unit: str
    allowed: float
    difference: Callable[[Array, Array], float]


@dataclass(frozen=True)
class Parity:
    """Differences: the largest of the heads, and of each result by its role, in the unit of TOLERANCES."""

    heads: float
    results: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{role} to {d:.0e}{TOLERANCES[role].unit}" for role, d in self.results.items())


def compare(model: Model, spec: ModelSpec, decoded: onnx.ModelProto) -> Parity:
    """Run both on the same batch of two noise images, with proposals where the model takes them.

    Args:
        model: eager, in eval mode.
        spec: of the model as a network that ends at its heads.
        decoded: image -> heads -> results; the heads are inner tensors of it.

    Raises:
        ParityError: heads differ by more than 1e-3 |x| + 1e-5 of the head's largest (at least 1), or a
            result by more than TOLERANCES allows.
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
    worst = 0.0
    for name, value in zip(names, found, strict=False):
        want = heads[name].numpy()
        worst = max(worst, _largest(value, want))
        least = HEADS_ATOL * max(1.0, float(np.abs(want).max()))
        if not np.allclose(value, want, rtol=HEADS_RTOL, atol=least):
            raise _disagreement(f"head {name!r}", _largest(value, want), f"{least:.0e} + 1e-3 |x|")
    differences = {}
    for (role, want), value in zip(results.items(), found[len(names) :], strict=True):
        rule = TOLERANCES[role]
        differences[role] = rule.difference(value, want.numpy())
        if not differences[role] <= rule.allowed:
            raise _disagreement(f"result {role!r}", differences[role], f"{rule.allowed}{rule.unit}")
    return Parity(worst, differences)


def _largest(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())


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
        hint="Another version of torch or onnxsim may export it right; please report it.",
    )
