"""Whether the exported graph computes what the eager model computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgedet.calib.observe import cpu_session
from edgedet.errors import AgreementError
from edgedet.models.base import Model
from edgedet.spec import ModelSpec

HEADS_RTOL, HEADS_ATOL = 1e-3, 1e-5
BOXES_PX = 1e-2


@dataclass(frozen=True)
class Agreement:
    """Largest absolute differences: of the heads, of the boxes in pixels, of the scores."""

    heads: float
    boxes: float
    scores: float


def compare(model: Model, spec: ModelSpec, decoded: onnx.ModelProto) -> Agreement:
    """Run both on the same batch of two noise images.

    Args:
        model: eager, in eval mode.
        spec: of the model as a network that ends at its heads.
        decoded: image -> heads -> boxes and scores; the heads are inner tensors of it.

    Raises:
        AgreementError: heads differ by more than 1e-5 + 1e-3 |x|, or boxes by more than 0.01 px.
    """
    pixels = np.random.default_rng(0).random((2, 3, *spec.input.size), np.float32)
    mean, std = (np.asarray(v, np.float32).reshape(3, 1, 1) for v in (spec.input.mean, spec.input.std))
    images = np.ascontiguousarray((pixels - mean) / std)
    training = model.training
    model.eval()
    with torch.no_grad():
        heads = model(torch.from_numpy(images))
        boxes, scores = model.decode(heads, spec.input.size)
    model.train(training)

    names = [o.name for o in spec.outputs]
    found = cpu_session(decoded, names).run([*names, "boxes", "scores"], {spec.input.name: images})
    worst = 0.0
    for name, value in zip(names, found, strict=False):
        want = heads[name].numpy()
        worst = max(worst, _largest(value, want))
        if not np.allclose(value, want, rtol=HEADS_RTOL, atol=HEADS_ATOL):
            raise _disagreement(f"head {name!r}", _largest(value, want), "1e-5 + 1e-3 |x|")
    result = Agreement(worst, _largest(found[-2], boxes.numpy()), _largest(found[-1], scores.numpy()))
    if not result.boxes <= BOXES_PX:
        raise _disagreement("boxes", result.boxes, f"{BOXES_PX} px")
    return result


def _largest(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max())


def _disagreement(what: str, got: float, allowed: str) -> AgreementError:
    return AgreementError(
        f"The exported graph's {what} differs from the eager model's by {got:.3g}, allowed is {allowed}.",
        hint="Another version of torch or onnxsim may export it right; please report it.",
    )
