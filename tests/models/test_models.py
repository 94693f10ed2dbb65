"""What every entry of MODELS must do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from edgedet.errors import UnknownName, UsageError
from edgedet.models import MODELS, build, entry, make_spec
from edgedet.models.backbones import fuse
from edgedet.models.base import Model, Targets
from edgedet.postprocess import postprocess
from edgedet.preprocess import place
from edgedet.results import Detections
from edgedet.spec import ModelSpec

CLASSES = ("cat", "dog", "cow")
every_model = pytest.mark.parametrize("name", sorted(MODELS))


def fresh(name: str) -> Model:
    torch.manual_seed(0)
    return build(name, len(CLASSES), pretrained=False)


def targets() -> list[Targets]:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 90.0], [40.0, 30.0, 120.0, 110.0]])
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return [Targets(boxes, torch.tensor([0, 2]), torch.tensor([False, False])), nothing]


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@every_model
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_shapes_follow_the_spec(name: str, size: tuple[int, int]) -> None:
    model = fresh(name).eval()
    spec = make_spec(name, model, CLASSES, size=size)
    heads = model(images(size))
    assert [*heads] == [o.role for o in spec.outputs]
    for out in spec.outputs:
        assert tuple(heads[out.role].shape) == (2, *out.shape[1:])
    boxes, scores = model.decode(heads, size)
    assert boxes.shape == (2, scores.shape[1], 4)
    assert scores.shape[2] == len(CLASSES)
    assert bool(((scores >= 0) & (scores <= 1)).all())


@every_model
def test_spec_round_trip(name: str) -> None:
    spec = make_spec(name, fresh(name), CLASSES)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.input.size == entry(name).size


@every_model
def test_loss_falls_on_one_batch(name: str) -> None:
    model = fresh(name).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    x, truth = images((128, 128)), targets()
    losses = []
    for _ in range(20):
        terms = model.loss(model(x), truth)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.6 * losses[0]


@every_model
def test_every_trainable_parameter_learns(name: str) -> None:
    model = fresh(name).train()
    terms = model.loss(model(images((128, 128))), targets())
    torch.stack(list(terms.values())).sum().backward()
    still = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # a ReLU6 network with random weights can have dead channels, not dead layers
    assert not still


@every_model
def test_fusing_changes_nothing_but_the_graph(name: str) -> None:
    model = fresh(name).eval()
    fused = copy.deepcopy(model)
    fuse(fused)
    x = images((128, 128))
    for before, after in zip(model(x).values(), fused(x).values(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not any("parametrizations" in k for k in fused.state_dict())
    assert any("parametrizations" in k for k in model.state_dict())


@every_model
def test_the_numpy_reference_decodes_as_the_model_does(name: str) -> None:
    model = fresh(name).eval()
    spec = make_spec(name, model, CLASSES, size=(128, 128))
    with torch.no_grad():
        heads = model(images((128, 128)))
        _, scores = model.decode(heads, (128, 128))
    outputs = {o.name: heads[o.role].numpy() for o in spec.outputs}
    results = postprocess(outputs, spec, [place(320, 240, spec.input)] * 2)
    for i, result in enumerate(results):
        assert isinstance(result, Detections)
        best = scores[i].max().item()
        if len(result):
            np.testing.assert_allclose(result.scores[0], best, rtol=1e-5)
        else:
            assert best <= spec.thresholds.score


def test_an_unknown_model_is_named_with_the_close_one() -> None:
    with pytest.raises(UnknownName, match=r"no model is named 'yoloo'\. Did you mean 'yolo'"):
        entry("yoloo")


def test_a_size_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(UsageError, match=r"multiples of 32.*nearest size is 320x480"):
        make_spec("yolo", fresh("yolo"), CLASSES, size=(310, 480))
