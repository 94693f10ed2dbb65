from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from edgedet.calib.observe import cpu_session
from edgedet.export.graph import _export  # the exporter of single parts
from edgedet.models.regions import (
    Proposing,
    propose,
    pyramid_align,
    roi_align,
    roi_max_pool,
    rounds_needed,
    suppress,
)

SIZE = (160, 128)
both_forms = pytest.mark.parametrize("operators", [False, True], ids=["plain", "operators"])


def random_boxes(n: int, p: int, seed: int = 0, *, outside: bool = False) -> Tensor:
    """Of all sizes, some empty; inside SIZE unless they may reach `outside`."""
    g = torch.Generator().manual_seed(seed)
    whole = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float32)
    centre = torch.rand(n, p, 2, generator=g) * whole
    half = torch.rand(n, p, 2, generator=g) ** 2 * whole / 2
    half[:, 0] = 0
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    if outside:
        return boxes
    limit = torch.cat([whole, whole])
    return boxes.clamp(min=torch.zeros(4), max=limit)


def rows(boxes: Tensor) -> list[Tensor]:
    return list(boxes)


@pytest.mark.parametrize("samples", [1, 2, 3])
@both_forms
def test_roi_align_is_torchvisions(samples: int, operators: bool) -> None:
    features = torch.randn(2, 5, 10, 8, generator=torch.Generator().manual_seed(1))
    boxes = random_boxes(2, 40, outside=True)
    found = roi_align(features, boxes, 1 / 16, samples=samples, operators=operators)
    expected = ops.roi_align(features, rows(boxes), 7, 1 / 16, samples, aligned=True)
    torch.testing.assert_close(found.reshape(80, 5, 7, 7), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bins", [1, 3, 7])
@pytest.mark.parametrize("cells", [(10, 8), (40, 32), (3, 2)])
@both_forms
def test_roi_max_pooling_is_torchvisions(bins: int, cells: tuple[int, int], operators: bool) -> None:
    features = torch.randn(2, 5, *cells, generator=torch.Generator().manual_seed(1))
    scale = cells[0] / SIZE[0]
    boxes = random_boxes(2, 60) * torch.tensor([cells[1] / (SIZE[1] * scale), 1.0] * 2)
    found = roi_max_pool(features, boxes, scale, bins=bins, operators=operators)
    expected = ops.roi_pool(features, rows(boxes), bins, scale)
    torch.testing.assert_close(found.reshape(120, 5, bins, bins), expected, rtol=0, atol=0)


def test_gradients_reach_the_features_as_torchvisions_do() -> None:
    boxes = random_boxes(2, 20)
    gradients = []
    for operators in (False, True):
        features = torch.randn(2, 3, 10, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        roi_align(features, boxes, 1 / 16, operators=operators).square().sum().backward()
        gradients.append(features.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@both_forms
def test_regions_are_looked_at_on_the_level_of_their_size(operators: bool) -> None:
    """Levels that hold their own index: below 32 px the first, from 32 the second, from 64 the third."""
    levels = [torch.full((1, 1, 160 // s, 128 // s), float(i)) for i, s in enumerate((8, 16, 32))]
    sides = torch.tensor([8.0, 31.9, 32.0, 63.9, 64.0, 100.0])
    boxes = torch.stack([0 * sides + 10, 0 * sides + 10, sides + 10, sides + 10], dim=-1)[None]
    found = pyramid_align(levels, (8, 16, 32), boxes, canonical=32.0, operators=operators)
    torch.testing.assert_close(found.mean((2, 3, 4))[0], torch.tensor([0.0, 0, 1, 1, 2, 2]))


@both_forms
@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_suppression_is_torchvisions(iou: float, operators: bool) -> None:
    boxes = random_boxes(3, 120)
    present = torch.ones(3, 120, dtype=torch.bool)
    present[1, ::3] = False
    present[2] = False
    rounds = rounds_needed(boxes, present, iou)
    keep = suppress(boxes, present, iou, rounds=rounds, operators=operators)
    for i in range(3):
        candidates = present[i].nonzero()[:, 0]
        chosen = ops.nms(boxes[i, candidates], -torch.arange(len(candidates), dtype=torch.float32), iou)
        expected = torch.zeros(120, dtype=torch.bool)
        expected[candidates[chosen]] = True
        assert (keep[i] == expected).all()


def test_a_chain_is_settled_by_as_many_rounds_as_it_is_long() -> None:
    """Each box overlaps only its neighbours, so every second one is kept, the last being known last."""
    x = torch.arange(12.0) * 4
    chain = torch.stack([x, 0 * x, x + 10, 0 * x + 10], dim=-1)[None]  # IoU of neighbours 6 / 14
    present = torch.ones(1, 12, dtype=torch.bool)
    needed = rounds_needed(chain, present, 0.4)
    assert needed == 11
    assert suppress(chain, present, 0.4, rounds=needed)[0].tolist() == [i % 2 == 0 for i in range(12)]
    fewer = suppress(chain, present, 0.4, rounds=needed - 2)[0].tolist()
    assert fewer != [i % 2 == 0 for i in range(12)]


class Proposals(nn.Module):
    """Two levels' logits and deltas -> proposals."""

    def __init__(self, how: Proposing, operators: bool) -> None:
        super().__init__()
        self.how, self.operators = how, operators
        self.anchors = random_boxes(1, 60, seed=3)[0].split([40, 20])

    def forward(self, logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        scores, moves = logits.split([40, 20], dim=1), deltas.split([40, 20], dim=1)
        return propose(scores, moves, self.anchors, SIZE, self.how, operators=self.operators)


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(5)
    logits, deltas = torch.randn(3, 60, generator=g), torch.randn(3, 60, 4, generator=g) * 0.3
    outside = deltas.clone()
    outside[..., 0] = 1e3  # to the right of every image
    one = outside.clone()
    one[:, 7] = 0
    best = logits.clone()
    best[:, 7] = 5.0
    alike = torch.zeros_like(deltas)
    return {
        "usual": (logits, deltas),
        "none": (logits, outside),
        "one": (best, one),
        "equal logits": (torch.zeros_like(logits), alike),
        "saturated": (logits + 40, deltas),
    }


@both_forms
@pytest.mark.parametrize("case", [*cases()])
def test_proposals_are_the_best_that_greedy_suppression_keeps(case: str, operators: bool) -> None:
    how = Proposing(per_level=30, count=16, iou=0.5)
    logits, deltas = cases()[case]
    module = Proposals(how, operators)
    boxes, objectness = module(logits, deltas)
    assert boxes.shape == (3, 16, 4)
    assert objectness.shape == (3, 16)
    for i in range(3):
        some = objectness[i] > 0
        n = int(some.sum())
        assert some[:n].all()  # absent rows come last, and are empty
        assert not boxes[i, n:].any()
        assert (boxes[i, :n, 2:] - boxes[i, :n, :2] >= how.smallest).all()
        assert (objectness[i, :n].diff() <= 0).all()
        assert len(ops.nms(boxes[i, :n], -torch.arange(n, dtype=torch.float32), how.iou)) == n
        if case == "none":
            assert n == 0
        if case == "one":
            assert n == 1
    plain, _ = Proposals(how, not operators)(logits, deltas)
    torch.testing.assert_close(boxes, plain)


def test_a_single_row() -> None:
    logits, deltas = cases()["usual"]
    boxes, objectness = Proposals(Proposing(per_level=30, count=1), False)(logits, deltas)
    more, scores = Proposals(Proposing(per_level=30, count=16), False)(logits, deltas)
    torch.testing.assert_close(boxes, more[:, :1])
    torch.testing.assert_close(objectness, scores[:, :1])


def test_fewer_anchors_than_rows() -> None:
    logits, deltas = cases()["usual"]
    boxes, objectness = Proposals(Proposing(count=100), False)(logits, deltas)
    assert boxes.shape == (3, 100, 4)
    assert not objectness[:, 60:].any()


def run_everywhere(module: nn.Module, inputs: dict[str, Tensor], tmp_path: Path) -> dict[str, list[Any]]:
    """{engine: outputs} of a module exported with a free batch; no shape depends on data."""
    with torch.no_grad():
        out = module(*inputs.values())
    outputs = [f"out{i}" for i in range(len(out) if isinstance(out, tuple) else 1)]
    fewer = tuple(v[:2] for v in inputs.values())
    graph = _export(module, fewer, [*inputs], outputs)
    for value in graph.graph.output:
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim[1:])
    path = tmp_path / "graph.onnx"
    onnx.save(graph, path)
    arrays = {k: v.numpy() for k, v in inputs.items()}
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(arrays)
    return {
        "eager": [t.numpy() for t in (out if isinstance(out, tuple) else (out,))],
        "onnxruntime": cpu_session(graph).run(outputs, arrays),
        "openvino": [found[i] for i in range(len(outputs))],
    }


class Pool(nn.Module):
    def __init__(self, run: Callable[..., Tensor], operators: bool) -> None:
        super().__init__()
        self.run, self.operators = run, operators

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.run(features, boxes, 1 / 16, operators=self.operators)


@both_forms
@pytest.mark.parametrize("run", [roi_align, roi_max_pool])
def test_pooling_is_the_same_on_every_engine(run: Any, operators: bool, tmp_path: Path) -> None:
    features = torch.randn(3, 8, 10, 8, generator=torch.Generator().manual_seed(1))
    inputs = {"features": features, "boxes": random_boxes(3, 50)}
    results = run_everywhere(Pool(run, operators), inputs, tmp_path)
    for found in results.values():
        np.testing.assert_allclose(found[0], results["eager"][0], rtol=0, atol=1e-4)


@both_forms
@pytest.mark.parametrize("count", [1, 16])
def test_proposals_are_the_same_on_every_engine(count: int, operators: bool, tmp_path: Path) -> None:
    module = Proposals(Proposing(per_level=30, count=count, iou=0.5), operators)
    logits, deltas = (torch.cat(parts) for parts in zip(*cases().values(), strict=True))
    results = run_everywhere(module, {"logits": logits, "deltas": deltas}, tmp_path)
    for found in results.values():
        np.testing.assert_allclose(found[0], results["eager"][0], rtol=0, atol=1e-3)
        np.testing.assert_allclose(found[1], results["eager"][1], rtol=0, atol=1e-5)
