"""SSD and the feature pyramids from a checkpoint to artifacts: graph, INT8, plan, stream; what is found is
the same in eager torch, in every engine, and by the numpy decoder of an engine that ends at the heads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedet.cli.main import run_verb
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import place
from edgedet.contract.results import Detections
from edgedet.contract.spec import ModelSpec, Thresholds
from edgedet.export.graph import Graphs, to_bytes, with_spec
from edgedet.export.parity import compare
from edgedet.models import build, make_spec
from edgedet.models.base import Model
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.training.checkpoint import load_model, save_model

CLASSES = ("cat", "dog", "bird")
SIZE = (64, 96)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ssd": ("ssd", {}),
    "ssd with fpn": ("ssd", {"neck": "fpn"}),
    "yolo with fpn": ("yolo", {"neck": "fpn"}),
}


def checkpoint(folder: Path, variant: str) -> Path:
    """Random weights with statistics in the norms; classes that differ from position to position."""
    name, more = VARIANTS[variant]
    options = {"width": 32, "size": SIZE, **more}
    torch.manual_seed(0)
    model = build(name, len(CLASSES), pretrained=False, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.uniform_(0.0, 0.5)
    for module in model.modules():  # last layers, which start near zero
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None and module.weight.std() < 0.02:
            torch.nn.init.normal_(module.weight, std=0.3)
            torch.nn.init.zeros_(module.bias)
    path = folder / "model.safetensors"
    save_model(path, model.state_dict(), make_spec(name, model, CLASSES, size=SIZE), options)
    return path


@pytest.fixture(scope="module", params=VARIANTS)
def made(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    graphs_of: Callable[[Model, ModelSpec], Graphs],
) -> tuple[Path, Model, Graphs]:
    path = checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)
    model, spec = load_model(path)
    return path, model, graphs_of(model, spec)


def test_the_graph_is_what_the_eager_model_computes(made: tuple[Path, Model, Graphs]) -> None:
    _, model, graphs = made
    found = compare(model, graphs.spec, graphs.decoded())
    assert 0 < found.heads < 1e-4
    assert found.results["boxes"] < 1e-2
    assert found.results["scores"] < 1e-4
    operators = {n.op_type for n in graphs.core.graph.node}
    assert operators <= {"Conv", "Clip", "Add", "Concat", "Resize", "Reshape", "Transpose", "MaxPool"}
    if graphs.spec.model == "ssd":
        assert [o.role for o in graphs.spec.outputs] == ["class_logits", "deltas"]
        assert graphs.spec.decode.kind == "anchors"
    assert graphs.decoded_spec.decode.kind == "dense"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_heads_decoded_in_numpy_are_the_results_of_the_graph(
    made: tuple[Path, Model, Graphs], tmp_path: Path, engine: str
) -> None:
    pytest.importorskip(engine)
    _, _, graphs = made
    open_ended = Thresholds(score=0.05, iou=0.5)
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    results = []
    for name, graph, spec in (
        ("heads", graphs.core, graphs.spec.with_(thresholds=open_ended)),
        ("decoded", graphs.decoded(), graphs.decoded_spec.with_(thresholds=open_ended)),
    ):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(to_bytes(with_spec(graph, spec)))
        with open_engine(file, engine=engine) as opened:
            outputs = opened.infer({"images": images})
            results.append(make_postprocessor(spec)(outputs, [place(192, 128, spec.input)] * 2))
    for ours, theirs in zip(*results, strict=True):
        assert isinstance(ours, Detections) and isinstance(theirs, Detections)
        assert len(ours) > 5
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_int8_is_exported_and_streamed(
    made: tuple[Path, Model, Graphs], pictures: Path, bikes: Path, tmp_path: Path, engine: str
) -> None:
    pytest.importorskip(engine)
    path, _, graphs = made
    name = graphs.spec.model
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "10", "--min-agreement", "0"]
    arguments = ["--model", name, "--weights", str(path), "--int8", "--target", engine, *data]
    assert run_verb("export", [*arguments, "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / f"{name}-int8.report.json").read_text())
    convolutions = sum(n.op_type == "Conv" for n in graphs.core.graph.node)
    assert report["facts"]["quantisation"]["int8 convolutions"] == convolutions
    file = tmp_path / f"{name}-int8.onnx"
    assert read_spec(file).decode.kind == "dense"  # the decoder is inside, and float
    lines = tmp_path / "out.jsonl"
    stream = [str(file), "--source", str(bikes), "--limit", "20", "--engine", engine, "--score", "0.05"]
    assert run_verb("run", [*stream, "--json-lines", str(lines)]) == 0
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["frame"] for r in records] == list(range(20))
    assert any(r["detections"] for r in records)


@pytest.mark.slow
def test_a_plan_ends_at_the_heads_all_int8(
    made: tuple[Path, Model, Graphs], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    path, _, graphs = made
    name = graphs.spec.model
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "10", "--min-agreement", "0"]
    arguments = ["--model", name, "--weights", str(path), "--int8", "--target", "tensorrt-rtx", *data]
    assert run_verb("export", [*arguments, "--sm", "86", "-o", str(tmp_path)]) == 0
    n = sum(node.op_type == "Conv" for node in graphs.core.graph.node)
    assert f"convolutions in the plan: {n} int8; {n} int8 expected" in capsys.readouterr().out
    spec = read_plan_spec(tmp_path / f"{name}-int8-rtx.plan")
    assert spec.decode == graphs.spec.decode
    make_postprocessor(spec)
