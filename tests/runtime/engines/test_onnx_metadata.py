"""Reading an ONNX file's metadata without onnx, against onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedet.contract.errors import EngineError, SpecError
from edgedet.runtime import open_engine, read_metadata, read_spec
from edgedet.runtime.engines.onnx_metadata import has_half_scales


def test_the_spec_is_read(brightness: Path) -> None:
    assert read_spec(brightness).model == "brightness"


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text(), st.text(), max_size=5))
def test_metadata_is_what_onnx_wrote(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("metadata") / "m.onnx"
    graph = helper.make_graph([], "empty", [], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, entries)
    path.write_bytes(model.SerializeToString())
    assert read_metadata(path) == entries


def test_a_foreign_onnx_has_no_spec(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString())
    with pytest.raises(SpecError, match="edgedet-export"):
        read_spec(path)


def test_a_truncated_file_is_named(brightness: Path, tmp_path: Path) -> None:
    whole = brightness.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises((EngineError, SpecError)):
            read_spec(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Cannot read"):
        read_metadata(tmp_path / "absent.onnx")


def write_quantised(path: Path, scale_type: type[np.generic], spec_json: str) -> Path:
    """Input -> Q/DQ -> Conv with Q/DQ weights -> output; scales of the given type."""
    rng = np.random.default_rng(0)
    half = scale_type is np.float16
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    # 7 bits: two products fit into 16, in which CPUs without INT8 dot products add them
    weights = rng.integers(-64, 65, (4, 3, 3, 3), np.int8)
    tensors = {
        "xs": np.array(0.02, scale_type),
        "xz": np.array(0, np.int8),
        "ws": np.array(0.01, scale_type),
        "w": weights,
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=kind),
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "xz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "xs", "xz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "xs", "xz"], ["yd"]),
        helper.make_node("Cast", ["yd"], ["grid"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "q",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    helper.set_model_props(model, {"edgedet.spec": spec_json})
    onnx.save(model, path)
    return path


@pytest.fixture
def spec_json(brightness: Path) -> str:
    from edgedet.contract.spec import Decode, Input, Output

    spec = read_spec(brightness).with_(
        input=Input("images", 8, 8, (0,) * 3, (1,) * 3, batch=1),
        outputs=(Output("grid", "grid", (1, 4, 6, 6)),),
        decode=Decode("yolo", {"boxes_per_cell": 1}),
        precision="int8",
    )
    return spec.to_json()


def test_half_scales_are_seen(tmp_path: Path, spec_json: str, write_model: Callable[..., Path]) -> None:
    assert has_half_scales(write_quantised(tmp_path / "half.onnx", np.float16, spec_json))
    assert not has_half_scales(write_quantised(tmp_path / "single.onnx", np.float32, spec_json))
    assert not has_half_scales(write_model(tmp_path / "none.onnx"))


def test_onnxruntime_runs_half_scales_rightly(tmp_path: Path, spec_json: str) -> None:
    """Its fused INT8 kernels have got float16 scales wrong by half (error 0.55 on a whole network)."""
    pytest.importorskip("onnxruntime")
    image = {"images": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    grids = []
    for kind in (np.float32, np.float16):
        with open_engine(
            write_quantised(tmp_path / "q.onnx", kind, spec_json), engine="onnxruntime"
        ) as engine:
            assert engine.name == "ONNX Runtime CPU int8"
            grids.append(engine.infer(image)["grid"])
    assert np.abs(grids[0]).max() > 1
    np.testing.assert_allclose(grids[0], grids[1], atol=0.045)  # two quantisation steps
