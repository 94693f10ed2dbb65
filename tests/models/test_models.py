"""What every entry of MODELS must do."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from edgedet.contract.errors import UnknownName, UsageError
from edgedet.contract.postprocess import Tensors, make_postprocessor
from edgedet.contract.preprocess import place
from edgedet.contract.results import Detections, SegmentationMap, boxes_of
from edgedet.contract.spec import ModelSpec
from edgedet.contract.targets import Targets
from edgedet.models import MODELS, build, entry, make_spec
from edgedet.models.backbones import fuse
from edgedet.models.base import Model

CLASSES = ("cat", "dog", "cow")
every_model = pytest.mark.parametrize("name", sorted(MODELS))
SIZE = (128, 128)


def fresh(name: str) -> Model:
    torch.manual_seed(0)
    options = {"size": SIZE} if entry(name).sized else {}
    return build(name, len(CLASSES), pretrained=False, **options)


def targets(name: str) -> list[Targets]:
    """Of two images of SIZE: two objects, and a class map with a void frame; nothing, and one class.

    For a model of one object an image, there is only the first.
    """
    if entry(name).task == "localisation":
        box, label, known = torch.tensor([[10.0, 20.0, 60.0, 90.0]]), torch.tensor([2]), torch.tensor([False])
        return [Targets(box, label, known), Targets(box[:0], label[:0], known[:0])]
    first, second = regions(40, SIZE)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 90.0], [40.0, 30.0, 120.0, 110.0]])
    halves = torch.full(SIZE, 255, dtype=torch.uint8)
    halves[8:-8, 8:64], halves[8:-8, 64:-8] = 0, 2
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 20:90, 10:60] = masks[1, 30:110, 40:120] = True
    nothing, one = torch.zeros(0, dtype=torch.int64), torch.ones(SIZE, dtype=torch.uint8)
    return [
        Targets(boxes, torch.tensor([0, 2]), torch.tensor([False, False]), halves, masks, first),
        Targets(torch.zeros(0, 4), nothing, nothing.bool(), one, masks[:0], second),
    ]


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def regions(count: int, size: tuple[int, int]) -> Tensor:
    """Proposals of two images (2, count, 4); the last quarter of the rows of the second holds none."""
    corners = torch.rand(2, count, 2, 2, generator=torch.Generator().manual_seed(2))
    corners = corners.sort(dim=2).values * torch.tensor([size[1], size[0]])
    corners[1, -count // 4 :] = 0
    return corners.flatten(2)


def given(model: Model, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """What `forward` takes: two images, and proposals where the model looks at such."""
    wanted = model.proposals()
    return (images(size),) if wanted is None else (images(size), regions(wanted.a_run, size))


@every_model
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_shapes_follow_the_spec(name: str, size: tuple[int, int]) -> None:
    model = fresh(name).eval()
    spec = make_spec(name, model, CLASSES, size=size)
    inputs = given(model, size)
    described = [spec.input, *spec.extra_inputs]
    assert [tuple(x.shape[1:]) for x in inputs] == [t.shape[1:] for t in described]
    heads = model(*inputs)
    assert [*heads] == [o.name for o in spec.outputs]
    for out in spec.outputs:
        assert tuple(heads[out.name].shape) == (2, *out.shape[1:])
    results = model.decode(heads, size)
    if spec.task == "semantic":
        assert results["class_map"].shape == (2, *size)
        assert results["class_map"].dtype == torch.uint8
        assert int(results["class_map"].max()) < len(CLASSES)
    else:
        boxes, scores = results["boxes"], results["scores"]
        # a box, or one for each class
        assert boxes.shape in ((2, scores.shape[1], 4), (2, *scores.shape[1:], 4))
        assert scores.shape[2] == len(CLASSES)
        assert bool(((scores >= 0) & (scores <= 1)).all())


@every_model
def test_spec_round_trip(name: str) -> None:
    spec = make_spec(name, fresh(name), CLASSES)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.input.size == entry(name).size


@every_model
def test_every_parameter_that_is_trained_has_a_gradient(name: str) -> None:
    """Also in a step without an object: several processes wait for each other's gradients."""
    model = fresh(name).train()
    model.begin_epoch(0.9)
    everything = targets(name)
    for truth in (everything, [everything[1], everything[1]]):
        model.zero_grad(set_to_none=True)
        torch.stack(list(model.training_loss(images(SIZE), truth).values())).sum().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


@every_model
def test_the_loss_is_computed_in_float32_under_autocast(name: str) -> None:
    model = fresh(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(SIZE), targets(name))
    assert {t.dtype for t in terms.values()} == {torch.float32}


@every_model
def test_loss_falls_on_one_batch(name: str) -> None:
    model = fresh(name).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    x, truth = images(SIZE), targets(name)
    losses = []
    for _ in range(20):
        terms = model.training_loss(x, truth)
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
    trained = [p for p in model.parameters() if p.requires_grad]
    sides = torch.arange(8.0, 129, 8)  # an object for every level
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], dim=1)
    masks = torch.ones(16, *SIZE, dtype=torch.bool)
    known, labels = targets(name)[0], torch.arange(16) % 3
    more = Targets(boxes, labels, labels < 0, known.class_map, masks, known.proposals)
    if entry(name).task == "localisation":
        more = targets(name)[0]
    for _ in range(2):  # in the first step nothing passes a last layer that starts at zero
        terms = model.training_loss(images(SIZE), [more, targets(name)[1]])
        model.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        with torch.no_grad():
            torch._foreach_add_(trained, [p.grad for p in trained], alpha=-1e-3)
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
    x = given(model, SIZE)
    for before, after in zip(model(*x).values(), fused(*x).values(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not any("parametrizations" in k for k in fused.state_dict())
    assert any("parametrizations" in k for k in model.state_dict())


@every_model
def test_the_numpy_reference_decodes_as_the_model_does(name: str) -> None:
    model = fresh(name).eval()
    spec = make_spec(name, model, CLASSES, size=SIZE)
    with torch.no_grad():
        heads = model(*given(model, SIZE))
        decoded = model.decode(heads, SIZE)
    if spec.task == "semantic":  # its artifacts end in the class map: see tests/conformance
        return
    outputs = {o.name: heads[o.name].numpy() for o in spec.outputs}
    transform = place(320, 240, spec.input)

    def stage(name: str, tensors: Tensors) -> Tensors:
        with torch.no_grad():
            made = model.run_stage(name, {k: torch.from_numpy(v) for k, v in tensors.items()})
        return {k: v.numpy() for k, v in made.items()}

    stages = {s.name: functools.partial(stage, s.name) for s in spec.stages}
    results = make_postprocessor(spec, stages)(outputs, [transform] * 2)
    if spec.task == "semantic":
        for result, expected in zip(results, decoded["class_map"].numpy(), strict=True):
            assert isinstance(result, SegmentationMap)
            # where two logits are equal to the last digits, either class may win
            assert (result.classes != transform.map_to_frame(expected)).mean() < 1e-3
        return
    scores = decoded["scores"]
    for i, result in enumerate(map(boxes_of, results)):
        assert isinstance(result, Detections)
        best = scores[i].max().item()
        if len(result):
            np.testing.assert_allclose(result.scores[0], best, rtol=1e-5)
        else:
            assert best <= spec.thresholds.score


def test_an_unknown_model_is_named_with_the_close_one() -> None:
    with pytest.raises(UnknownName, match=r"no model is named 'yoloo'\. Did you mean 'yolo'"):
        entry("yoloo")


def test_a_value_that_is_not_an_options_is_named() -> None:
    with pytest.raises(UsageError, match="width is 'wide', expected a whole number of at least 1"):
        build("yolo", 3, width="wide", pretrained=False)
    with pytest.raises(UsageError, match="yolo cannot be built with the options pretrained=False, size=3"):
        build("yolo", 3, pretrained=False, size=3)


def test_a_size_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(UsageError, match=r"multiples of 32.*nearest size is 320x480"):
        make_spec("yolo", fresh("yolo"), CLASSES, size=(310, 480))
