"""Exact arithmetic: what a quantised graph says, whatever INT8 kernels the CPU has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import EngineError
from edgedet.contract.spec import SPEC_KEY, Decode, Input, ModelSpec, Output
from edgedet.runtime import open_engine

CHANNELS, CELLS = 48, 4


@pytest.fixture
def saturating(tmp_path: Path) -> Path:
    """A convolution of u8 x s8 whose pairs of products exceed 16 bits: 3 channels widened to 48, summed."""
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    rng = np.random.default_rng(0)
    tensors = {
        "widen": np.eye(3, dtype=np.float32).repeat(CHANNELS // 3, axis=0)[:, :, None, None],
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "ones": np.ones(7, np.float32),
        "zeros": np.zeros(7, np.int8),
        "w": rng.integers(100, 128, (7, CHANNELS, 1, 1), np.int8),
    }
    nodes = [
        node("Conv", ["images", "widen"], ["wide"]),
        node("QuantizeLinear", ["wide", "one", "zero"], ["xq"]),
        node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        node("DequantizeLinear", ["w", "ones", "zeros"], ["wd"], axis=0),
        node("Conv", ["xd", "wd"], ["grid"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "saturating",
        [value("images", 1, [1, 3, CELLS, CELLS])],
        [value("grid", 1, [1, 7, CELLS, CELLS])],
        [tensor(v, k) for k, v in tensors.items()],
    )
    spec = ModelSpec(
        "saturating",
        "detection",
        Input("images", CELLS, CELLS, (0.0,) * 3, (1.0,) * 3, batch=1),
        (Output("grid", "grid", (1, 7, CELLS, CELLS)),),
        Decode("yolo", {"boxes_per_cell": 1}),
        ("thing", "other"),
        precision="int8",
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
    onnx.save(made, tmp_path / "saturating.onnx")
    return tmp_path / "saturating.onnx"


def test_sums_are_those_of_the_integers(saturating: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(saturating).graph.initializer}["w"]
    images = np.random.default_rng(1).integers(200, 256, (1, 3, CELLS, CELLS))
    wide = images.repeat(CHANNELS // 3, axis=1)
    want = np.einsum("oc,bchw->bohw", weights[:, :, 0, 0].astype(np.int64), wide)
    with open_engine(saturating, engine="onnxruntime", precision="exact") as engine:
        assert engine.name == "ONNX Runtime CPU int8 exact"
        request = engine.request()
        request.inputs["images"][:] = images
        request.start()
        request.wait()
        direct = engine.infer({"images": images.astype(np.float32)})["grid"]
    np.testing.assert_array_equal(direct, want)
    np.testing.assert_array_equal(request.outputs["grid"], want)


def test_openvino_has_none(write_model: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(EngineError, match="no exact arithmetic") as error:
        open_engine(write_model(tmp_path / "a.onnx"), engine="openvino", precision="exact")
    assert "onnxruntime" in error.value.hint
