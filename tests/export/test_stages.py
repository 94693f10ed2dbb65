"""A model with a stage after NMS as two graphs, equal to the eager model on each engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from edgedet.calib import Scales, quantisable
from edgedet.calib.features import CONVOLUTIONS
from edgedet.cli.main import run_verb
from edgedet.contract.errors import EngineError
from edgedet.contract.results import Instances
from edgedet.contract.spec import Thresholds
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.export.accuracy import mask_agreement, open_data
from edgedet.export.graph import export_graphs, with_digest, with_spec
from edgedet.export.parity import compare
from edgedet.models import build, make_spec
from edgedet.models.mask_rcnn import ROWS
from edgedet.runtime import open_engine, open_predictor
from edgedet.training.checkpoint import load_model, save_model

LIMITS = Thresholds(score=0.02, max_detections=20)
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights that find things."""
    torch.manual_seed(0)
    options = {"width": 16, "hidden": 32, "proposals": 16}
    model = build("mask-rcnn", len(CLASSES), pretrained=False, **options)
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(30)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    spec = make_spec("mask-rcnn", model, CLASSES, size=(96, 96)).with_(thresholds=LIMITS)
    save_model(path, model.state_dict(), spec, options)
    return path


def convolutions(graph: onnx.ModelProto) -> dict[str, int]:
    """How many read a DequantizeLinear, by operator; others are not counted."""
    made = {o for n in graph.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    found = [
        n.op_type for n in graph.graph.node if n.op_type in CONVOLUTIONS and made.issuperset(n.input[:2])
    ]
    return {op: found.count(op) for op in set(found)}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_stage_is_int8_too(checkpoint: Path, pictures: Path, tmp_path: Path, target: str):
    pytest.importorskip(target)
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "6", "--min-agreement", "0"]
    arguments = ["--model", "mask-rcnn", "--weights", str(checkpoint), "--int8", "--target", target]
    assert run_verb("export", [*arguments, *data, "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "mask-rcnn-int8.report.json").read_text())
    files = [name for name in report["wrote"] if name.endswith(".onnx")]
    assert files == [
        "mask-rcnn-masks.onnx",
        "mask-rcnn.onnx",
        "mask-rcnn-int8-masks.onnx",
        "mask-rcnn-int8.onnx",
    ]
    transposed = target == "openvino"  # ONNX Runtime has none in INT8
    stage = onnx.load(tmp_path / "mask-rcnn-int8-masks.onnx")
    assert convolutions(stage) == {"Conv": 5} | ({"ConvTranspose": 1} if transposed else {})
    first = onnx.load(tmp_path / "mask-rcnn-int8.onnx")
    facts = report["facts"]
    assert facts["quantisation"]["int8 convolutions"] == sum(
        n for g in (first, stage) for n in convolutions(g).values()
    )
    assert facts["calibration"]["images with objects for the masks"] == 6
    size = sum((tmp_path / f"mask-rcnn-int8{part}.onnx").stat().st_size for part in ("", "-masks"))
    assert report["rows"][-1]["size"] == size

    image = cv2.imread(str(pictures / "9.png"))
    assert image is not None
    pixels = cv2.resize(image, (96, 96))[None]
    with (
        open_engine(tmp_path / "mask-rcnn.onnx", engine=target) as reference,
        open_engine(tmp_path / "mask-rcnn-int8.onnx", engine=target) as typed,
    ):
        # the same features and boxes through either stage
        given = {n: v for n, v in reference.infer({"images": pixels}).items() if n.startswith("level")}
        corners = np.random.default_rng(0).uniform(0, 96, (1, 16, 2, 2)).astype(np.float32)
        given["kept"] = np.sort(corners, axis=2).reshape(1, 16, 4)
        a, b = (e.stages["masks"].infer(given)["mask_logits"].ravel() for e in (reference, typed))
        assert 0 < np.abs(a - b).mean() < 0.25 * a.std()
        assert np.corrcoef(a, b)[0, 1] > 0.95
        measure = mask_agreement(reference, open_data(f"folder:{pictures}", "val"))
        assert measure is not None
        assert measure(reference) == 100
        found = measure(typed)
        assert found is not None and found > 10

    # the cache serves another target, and one without ranges for the stage is refused
    cache = tmp_path / "mask-rcnn.calibration.json"
    scales = Scales.load(cache)
    assert list(scales.stages) == ["masks"]
    other = {"openvino": "onnxruntime", "onnxruntime": "tensorrt"}[target]
    common = [*arguments[:-1], other, "--accept-unmeasured", "-o", str(tmp_path / "other")]
    assert run_verb("export", [*common, "--calib-cache", str(cache)]) == 0
    replace(scales, stages={}).save(tmp_path / "without.json")
    assert run_verb("export", [*common, "--calib-cache", str(tmp_path / "without.json")]) == 1
    stage_file = tmp_path / "mask-rcnn-int8-masks.onnx"
    stage_file.write_bytes((tmp_path / "mask-rcnn-masks.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"is not the stage 'masks' that .* was made with"):
        open_engine(tmp_path / "mask-rcnn-int8.onnx", engine=target)


@pytest.mark.slow
def test_without_anything_found_the_stage_cannot_be_calibrated(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, spec = load_model(checkpoint)
    blind = tmp_path / "blind.safetensors"
    options = {"width": 16, "hidden": 32, "proposals": 16}
    save_model(blind, model.state_dict(), spec.with_(thresholds=replace(LIMITS, score=1.0)), options)
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "2", "--target", "onnxruntime"]
    arguments = ["--model", "mask-rcnn", "--weights", str(blind), "--int8", *data]
    assert run_verb("export", [*arguments, "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "error [CalibrationError]: Nothing was found on 2 calibration images" in error


def test_mask_rcnn_is_two_graphs_that_equal_eager(tmp_path: Path):
    torch.manual_seed(0)
    model = build("mask-rcnn", 3, width=16, hidden=32, proposals=16, pretrained=False).eval()
    graphs = export_graphs(model, make_spec("mask-rcnn", model, ("a", "b", "c"), size=(96, 96)))
    compare(model, graphs.spec, graphs.decoded())
    assert [o.name for o in graphs.decoded_spec.outputs] == ["boxes", "scores", "level0", "level1", "level2"]
    convolutions = [n for n in graphs.stages["masks"].graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert {n.input[0] for n in convolutions} <= set(quantisable(graphs.stages["masks"]))
    path = tmp_path / "m.onnx"
    path.write_bytes(with_spec(graphs.decoded(), graphs.decoded_spec).SerializeToString())
    stage = graphs.spec.stages[0].file
    path.with_name(stage).write_bytes(with_digest(graphs.stages["masks"]).SerializeToString())
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    want = torch_under_test(model, graphs.spec, thresholds=LIMITS)(image)
    assert isinstance(want, Instances) and len(want) > ROWS, "more than one run of the stage takes"
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        with open_predictor(path, engine=engine, thresholds=LIMITS) as predictor:
            got = predictor(image)
        assert isinstance(got, Instances)
        np.testing.assert_array_equal(got.detections.labels, want.detections.labels)
        np.testing.assert_allclose(got.detections.boxes, want.detections.boxes, atol=1e-2)
        np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)
