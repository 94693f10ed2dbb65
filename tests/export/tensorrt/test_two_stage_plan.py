"""Detectors that look at regions as TensorRT for RTX plans: ended at the heads, convolutions counted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from edgedet.cli.main import run_verb
from edgedet.contract.errors import EngineError
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.spec import Thresholds
from edgedet.export.tensorrt.plan_text import convolution_types
from edgedet.models import build, make_spec
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.engine import _check_stage
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.training.checkpoint import save_model

CLASSES = ("a", "b", "c")
SIZE = (96, 96)
VARIANTS = {"faster-rcnn": {}, "faster-rcnn none": {"neck": "none"}, "mask-rcnn": {}}


@pytest.fixture(scope="module", params=VARIANTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model's name, and untrained weights that find things."""
    name = request.param.split()[0]
    options = {"width": 16, "hidden": 32, "proposals": 16, **VARIANTS[request.param]}
    torch.manual_seed(0)
    model = build(name, len(CLASSES), pretrained=False, **options)
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(30)
    spec = make_spec(name, model, CLASSES, size=SIZE).with_(thresholds=Thresholds(score=0.02))
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, model.state_dict(), spec, options)
    return name, path


def counts(plan: Path) -> dict[str, int]:
    kinds = [kind for kind, _ in convolution_types(plan.read_bytes()).values()]
    return {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_plan(checkpoint: tuple[str, Path], pictures: Path, tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    name, path = checkpoint
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "4"] if precision == "int8" else []
    arguments = ["--model", name, "--weights", str(path), f"--{precision}", *data, "--min-agreement", "0"]
    target = ["--target", "tensorrt-rtx", "--sm", "86", "-o", str(tmp_path), "--accept-unmeasured"]
    assert run_verb("export", [*arguments, *target]) == 0

    stem = f"{name}-{precision}-rtx"
    plan = tmp_path / f"{stem}.plan"
    spec, typed = read_plan_spec(plan), read_spec(tmp_path / f"{stem}.onnx")
    assert spec.decode.kind == "regions"
    assert spec.build["precision"] == precision
    report = json.loads((tmp_path / f"{stem}.report.json").read_text())
    kind = {"fp16": "half", "int8": "int8"}[precision]
    found = counts(plan)
    assert set(found) == {kind} and found[kind] > 50
    assert report["facts"]["plan"]["convolutions by input type"] == found
    if precision == "int8":
        assert report["facts"]["plan"]["INT8 expected"] == found["int8"]
        assert report["facts"]["quantisation"]["left in float"] == [
            f"{n}.up.0" for n in ["mask_head"] if spec.stages
        ]
    if not spec.stages:
        make_postprocessor(spec)
        return

    # the mask head is a second plan beside the first, which knows its name and bytes
    stage = plan.with_name(f"{stem}-masks.plan")
    assert [(s.file, s.sha256) for s in spec.stages] == [
        (stage.name, hashlib.sha256(stage.read_bytes()).hexdigest())
    ]
    assert typed.stages[0].file == f"{stem}-masks.onnx"
    wanted = {"fp16": {"half": 6}, "int8": {"int8": 5, "half": 1}}[precision]  # one is transposed
    assert counts(stage) == wanted
    assert report["facts"]["plan-masks"]["convolutions by input type"] == wanted
    assert {plan.name, stage.name, f"{stem}.onnx", f"{stem}-masks.onnx"} <= set(report["wrote"])
    make_postprocessor(spec, {"masks": lambda tensors: {}})
    _check_stage(stage, plan, spec.stages[0])
    stage.write_bytes(stage.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"is not the stage 'masks' that .* was made with"):
        _check_stage(stage, plan, spec.stages[0])
    # what the plans were built from runs here
    with open_engine(tmp_path / f"{stem}.onnx", engine="onnxruntime") as engine:
        assert list(engine.stages) == ["masks"]
