"""Fast R-CNN, a graph with a second input, from its checkpoint to every engine and plan."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgedet.calib import quantisable
from edgedet.cli.main import run_verb
from edgedet.contract.errors import ParityError
from edgedet.contract.spec import ModelSpec
from edgedet.export.graph import Graphs, export_graphs, to_bytes, with_spec
from edgedet.export.noise import noise
from edgedet.export.parity import compare
from edgedet.export.tensorrt.plan_text import convolution_types
from edgedet.export.tensorrt.trt import trtexec
from edgedet.models import build, make_spec
from edgedet.models.fast_rcnn import FastRcnn
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.engine import ENGINES
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.training.checkpoint import save_model

CLASSES = ("cat", "dog", "bird")
SIZE = (64, 96)
P = 20
OPTIONS = {"width": 16, "hidden": 32, "proposals": P}
every_engine = pytest.mark.parametrize("engine", [name for name, b in ENGINES.items() if b.installed])


def fresh(**options: int) -> FastRcnn:
    """Random weights, whose logits differ from region to region as trained ones do."""
    torch.manual_seed(0)
    model = build("fast-rcnn", len(CLASSES), pretrained=False, **{**OPTIONS, **options}).eval()
    assert isinstance(model, FastRcnn)
    last = model.box_head.class_logits
    torch.nn.init.normal_(last.weight)
    given = noise(make_spec("fast-rcnn", model, CLASSES, size=SIZE), 8)
    with torch.no_grad():
        for _ in range(2):
            logits = model(*map(torch.from_numpy, given.values()))["class_logits"]
            last.bias -= logits.mean((0, 1))
            last.weight *= 2 / (logits - logits.mean((0, 1))).std()
    return model


@pytest.fixture(scope="module")
def model() -> FastRcnn:
    return fresh()


@pytest.fixture(scope="module")
def spec(model: FastRcnn) -> ModelSpec:
    return make_spec("fast-rcnn", model, CLASSES, size=SIZE)


@pytest.fixture(scope="module")
def graphs(model: FastRcnn, spec: ModelSpec) -> Graphs:
    return export_graphs(model, spec)


@pytest.fixture(scope="module")
def checkpoint(model: FastRcnn, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, model.state_dict(), spec, OPTIONS)
    return path


def test_the_graph_takes_images_and_proposals(graphs: Graphs, spec: ModelSpec) -> None:
    for graph in (graphs.core, graphs.decoded()):
        assert [v.name for v in graph.graph.input] == ["images", "rois"]
    assert [o.name for o in graphs.core.graph.output] == [o.name for o in spec.outputs]
    assert not {v.name for v in graphs.core.graph.input} & {v.name for v in graphs.core.graph.output}
    assert [(o.role, o.shape) for o in graphs.decoded_spec.outputs] == [
        ("boxes", (None, P, 3, 4)),
        ("scores", (None, P, 3)),
    ]
    assert graphs.decoded_spec.proposals == spec.proposals


def test_no_coordinate_is_quantised(graphs: Graphs) -> None:
    found = quantisable(graphs.core)
    assert "rois" not in found
    assert not {o.name for o in graphs.core.graph.output} & set(found)
    assert "images" in found
    convolutions = [n for n in graphs.core.graph.node if n.op_type == "Conv"]
    assert {n.input[0] for n in convolutions} <= set(found)


def test_agreement_is_demanded_with_proposals(model: FastRcnn, graphs: Graphs) -> None:
    found = compare(model, graphs.spec, graphs.decoded())
    assert found.heads < 1e-3
    assert found.results["boxes"] < 1e-2
    inputs = noise(graphs.spec, 2)
    assert [(n, a.shape) for n, a in inputs.items()] == [("images", (2, 3, *SIZE)), ("rois", (2, P, 4))]
    assert (inputs["rois"][:, : -P // 4, 2:] >= inputs["rois"][:, : -P // 4, :2]).all()
    assert not inputs["rois"][:, -P // 4 :].any()
    other = fresh(hidden=33)
    with pytest.raises(ParityError, match="differs"):
        compare(other, graphs.spec, graphs.decoded())


def engine_file(graphs: Graphs, folder: Path) -> Path:
    path = folder / "fast.onnx"
    path.write_bytes(to_bytes(with_spec(graphs.decoded(), graphs.decoded_spec)))
    return path


def proposals(kind: str, count: int) -> np.ndarray:
    """(1, count, 4)."""
    rows = np.zeros((1, count, 4), np.float32)
    if kind == "one":
        rows[0, 0] = 10, 5, 70, 50
    elif kind == "alike":
        rows[0] = 10, 5, 70, 50
    elif kind == "beyond the image":
        rows[0] = -30, -20, 200, 130
    elif kind == "on the border of cells":
        rows[0] = 8, 8, 24, 40
    return rows


@every_engine
@pytest.mark.parametrize("kind", ["none", "one", "alike", "beyond the image", "on the border of cells"])
@pytest.mark.parametrize("count", [P, 1])
def test_every_engine_equals_eager_for_any_proposals(
    engine: str, kind: str, count: int, model: FastRcnn, graphs: Graphs, tmp_path: Path
) -> None:
    if count != P:
        model = fresh(proposals=count)
        graphs = export_graphs(model, make_spec("fast-rcnn", model, CLASSES, size=SIZE))
    images = noise(graphs.spec)["images"]
    rois = proposals(kind, count)
    with torch.no_grad():
        want = model.decode(model(torch.from_numpy(images), torch.from_numpy(rois)), SIZE)
    with open_engine(engine_file(graphs, tmp_path), engine=engine) as opened:
        got = opened.infer({"images": images, "rois": rois})
    np.testing.assert_allclose(got["scores"], want["scores"].numpy(), atol=1e-4)
    np.testing.assert_allclose(got["boxes"], want["boxes"].numpy(), atol=1e-2)
    assert got["scores"].any() == (kind != "none")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_int8_is_calibrated_judged_and_timed_with_proposals(
    target: str, checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(target)
    out, cache = tmp_path / "out", tmp_path / "cache"
    arguments = ["--model", "fast-rcnn", "--weights", str(checkpoint), "--int8", "--target", target]
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "6", "--min-agreement", "20"]
    code = run_verb(
        "export", [*arguments, *data, "--proposals-cache", str(cache), "--sensitivity", "-o", str(out)]
    )
    shown = capsys.readouterr().out
    assert code == 0, shown
    report = json.loads((out / "fast-rcnn-int8.report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["FP32"]["p50"] > 0
    assert rows["INT8"]["p50"] > 0
    assert rows["INT8"]["accuracy"] >= 20
    # the six for calibration, the four that are held out: each once
    assert len(list(cache.rglob("*.npy"))) == 10
    assert report["sensitivity"]
    for name in ("fast-rcnn.onnx", "fast-rcnn-int8.onnx"):
        taken = read_spec(out / name)
        assert taken.input.dtype == "uint8"
        assert [(t.name, t.shape) for t in taken.extra_inputs] == [("rois", (None, P, 4))]
        assert taken.proposals is not None
        assert taken.proposals.count == P

    assert run_verb("info", [str(out / "fast-rcnn-int8.onnx")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "rois: proposals, N x 20 x 4, float32 proposals the best 20 of selective_search" in shown
    stream = ["--source", str(pictures), "--json-lines", str(out / "found.jsonl")]
    assert run_verb("run", [str(out / "fast-rcnn-int8.onnx"), "--engine", target, *stream]) == 0
    assert len((out / "found.jsonl").read_text().splitlines()) == len(list(pictures.iterdir()))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_plan_takes_proposals(
    precision: str, checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    arguments = ["--model", "fast-rcnn", "--weights", str(checkpoint), f"--{precision}"]
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "4", "--min-agreement", "0"]
    data = data if precision == "int8" else ["--accept-unmeasured"]
    target = ["--target", "tensorrt-rtx", "--sm", "86", "-o", str(tmp_path)]
    assert run_verb("export", [*arguments, *data, *target]) == 0, capsys.readouterr()
    plan = tmp_path / f"fast-rcnn-{precision}-rtx.plan"
    spec = read_plan_spec(plan)
    assert [(t.name, t.role, t.shape) for t in spec.extra_inputs] == [("rois", "proposals", (None, P, 4))]
    assert [o.role for o in spec.outputs] == ["proposals", "objectness", "class_logits", "deltas"]
    kinds = [a for a, _ in convolution_types(plan.read_bytes()).values()]
    assert set(kinds) == {"int8" if precision == "int8" else "half"}


def test_the_command_that_builds_a_plan_names_both_inputs(graphs: Graphs) -> None:
    assert trtexec(graphs.spec, "a.onnx", "a.plan") == (
        "trtexec --onnx=a.onnx --stronglyTyped"
        " --minShapes=images:1x3x64x96,rois:1x20x4"
        " --optShapes=images:1x3x64x96,rois:1x20x4"
        " --maxShapes=images:4x3x64x96,rois:4x20x4 --saveEngine=a.plan"
    )


@every_engine
def test_the_pictures_are_looked_at_with_their_own_proposals(
    engine: str, model: FastRcnn, spec: ModelSpec, graphs: Graphs, pictures: Path, tmp_path: Path
) -> None:
    """Eager and exported, each with what proposes at run time, find the same."""
    from edgedet.evaluation import engine_under_test
    from edgedet.evaluation.predict_torch import torch_under_test

    eager = torch_under_test(model, spec)
    found = 0
    with open_engine(engine_file(graphs, tmp_path), engine=engine) as opened:
        predict = engine_under_test(opened)
        for path in sorted(pictures.iterdir()):
            image = np.asarray(cv2.imread(str(path)))
            want, got = eager(image), predict(image)
            found += len(want)
            np.testing.assert_allclose(got.boxes, want.boxes, atol=0.05)
            np.testing.assert_allclose(got.scores, want.scores, atol=1e-3)
    assert found > 20
