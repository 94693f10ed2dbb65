"""Two-stage detectors at the edges: no proposal, one, all alike, one row. Engines find what eager does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgedet.contract.results import Instances
from edgedet.contract.spec import Thresholds
from edgedet.evaluation import engine_under_test
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.evaluation.same import same
from edgedet.export.artifacts import Artifacts
from edgedet.export.graph import Graphs, export_graphs
from edgedet.export.options import ExportOptions
from edgedet.export.staging import Staging
from edgedet.export.targets import find_target
from edgedet.models import build, make_spec
from edgedet.models.mask_rcnn import MaskRcnn

ENGINES = ("onnxruntime", "openvino")
LIMITS = Thresholds(score=0.02, max_detections=20)


def usual(model: MaskRcnn) -> None:
    """Proposals that differ."""


def none(model: MaskRcnn) -> None:
    """Every anchor is moved out of the image."""
    model.rpn.deltas.weight.zero_()
    model.rpn.deltas.bias[0::4] = 1e3


def one(model: MaskRcnn) -> None:
    """Every anchor becomes the whole image: all boxes are alike, and suppression leaves the best."""
    model.rpn.deltas.weight.zero_()
    model.rpn.deltas.bias[2::4], model.rpn.deltas.bias[3::4] = 50.0, 50.0


def alike(model: MaskRcnn) -> None:
    """Every anchor is as good as any other: the first ones are taken."""
    model.rpn.objectness.weight.zero_()


CASES: dict[str, tuple[Callable[[MaskRcnn], None], int]] = {
    "usual": (usual, 16),
    "none": (none, 0),
    "one": (one, 1),
    "alike": (alike, 16),
}


@pytest.fixture(scope="module", params=["plain", "operators"])
def made(request: pytest.FixtureRequest) -> tuple[MaskRcnn, Graphs]:
    return fresh(16, request.param == "operators")


def fresh(proposals: int, operators: bool) -> tuple[MaskRcnn, Graphs]:
    torch.manual_seed(0)
    model = build("mask-rcnn", 3, width=16, hidden=32, proposals=proposals, pretrained=False).eval()
    assert isinstance(model, MaskRcnn)
    with torch.no_grad():  # untrained heads say nothing: all scores alike
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(30)
        for layer in (model.rpn.objectness, model.rpn.deltas):
            layer.bias.normal_(0, 0.01)  # constants of their own in the graph
    model.operators = operators
    return model, export_graphs(model, make_spec("mask-rcnn", model, ("a", "b", "c"), size=(96, 96)))


def with_weights(graph: onnx.ModelProto, model: MaskRcnn) -> None:
    """Give the graph's RPN the model's weights."""
    constants = {t.name: t for t in graph.graph.initializer}
    for layer in ("objectness", "deltas"):
        for name, value in getattr(model.rpn, layer).state_dict(prefix=f"rpn.{layer}.").items():
            constants[name].CopyFrom(numpy_helper.from_array(value.numpy(), name))


def check(model: MaskRcnn, graphs: Graphs, proposals: int, folder: Path) -> None:
    """That each engine gives eager's results, of images with so many proposals."""
    pictures = [np.random.default_rng(i).integers(0, 256, (120, 160, 3), np.uint8) for i in range(2)]
    with torch.no_grad():
        heads = model(torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)))
    assert (heads["objectness"] > 0).sum(dim=1).tolist() == [proposals] * 2
    eager = torch_under_test(model, graphs.spec, thresholds=LIMITS)
    for name in ENGINES:
        pytest.importorskip(name)
        with Staging(folder) as staging:
            files = Artifacts(ExportOptions("mask-rcnn", folder), find_target(name), graphs, staging)
            files.plain()
            with files.open(files.plain_name) as engine:
                predict = engine_under_test(engine, LIMITS)
                for picture in pictures:
                    want, got = eager(picture), predict(picture)
                    assert isinstance(want, Instances) and isinstance(got, Instances)
                    assert (len(want) > 0) == (proposals > 0)
                    assert len(got) == len(want) == same(got.detections, want.detections, 0.99)
                    np.testing.assert_allclose(
                        np.sort(got.detections.scores), np.sort(want.detections.scores), atol=1e-4
                    )
                    if len(want) == 1:
                        np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_engines_equal_eager(case: str, made: tuple[MaskRcnn, Graphs], tmp_path: Path) -> None:
    model, graphs = made
    change, proposals = CASES[case]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        change(model)
    with_weights(graphs.core, model)
    try:
        check(model, graphs, proposals, tmp_path)
    finally:
        model.load_state_dict(before)
        with_weights(graphs.core, model)


@pytest.mark.parametrize("operators", [False, True])
def test_one_row(operators: bool, tmp_path: Path) -> None:
    model, graphs = fresh(1, operators)
    check(model, graphs, 1, tmp_path)
