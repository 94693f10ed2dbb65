"""Semantic models as TensorRT plans: the class map inside, the convolutions counted from the plan."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edgedet.cli.main import run_verb
from edgedet.export.tensorrt.plan_text import convolution_types
from edgedet.models import build, make_spec
from edgedet.runtime import open_engine
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.training.checkpoint import load_model, save_model

SIZE = (32, 48)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = {"encoder": "plain", "width": 8}
    model = build("unet", 3, pretrained=False, **options)
    for module in model.modules():  # activations of about one, as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(4, 3, *SIZE))
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, model.state_dict(), make_spec("unet", model, ("a", "b", "c"), size=SIZE), options)
    return path


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_plan_ends_in_the_class_map(checkpoint, pictures, tmp_path, capsys, precision):
    pytest.importorskip("tensorrt_rtx")
    data = ["--calib-data", f"folder:{pictures}", "--calib-images", "4"]
    if precision == "fp16":
        data = ["--accept-unmeasured"]
    arguments = ["--model", "unet", "--weights", str(checkpoint), f"--{precision}", "--min-agreement", "0"]
    target = ["--target", "tensorrt-rtx", "--sm", "86", "-o", str(tmp_path)]
    assert run_verb("export", [*arguments, *data, *target]) == 0
    shown = capsys.readouterr().out

    name = f"unet-{precision}-rtx"
    spec = read_plan_spec(tmp_path / f"{name}.plan")
    assert spec.decode.kind == "class_map"
    assert [(o.role, o.shape, o.dtype) for o in spec.outputs] == [("class_map", (None, *SIZE), "uint8")]

    kinds = [a for a, _ in convolution_types((tmp_path / f"{name}.plan").read_bytes()).values()]
    report = json.loads((tmp_path / f"{name}.report.json").read_text())
    if precision == "int8":
        assert (kinds.count("int8"), kinds.count("half"), len(kinds)) == (23, 4, 27)
        assert "4 half, 23 int8; 23 int8 expected" in shown
        assert report["facts"]["quantisation"]["convolutions"] == 27
        assert any("4 transposed convolutions left in float" in note for note in report["notes"])
    else:
        assert set(kinds) == {"half"}

    # the ONNX it was built from gives what the heads decode to
    images = np.random.default_rng(0).normal(0, 1, (2, 3, *SIZE)).astype(np.float32)
    with open_engine(tmp_path / f"{name}.onnx", engine="onnxruntime") as engine:
        found = engine.infer({"images": images})["class_map"]
    model, _ = load_model(checkpoint)
    with torch.no_grad():
        want = model.decode(model(torch.from_numpy(images)), SIZE)["class_map"].numpy()
    assert (found.dtype, found.shape) == (np.uint8, (2, *SIZE))
    if precision == "fp16":  # with random weights classes are too close for what INT8 keeps of them
        assert (found == want).mean() > 0.98
