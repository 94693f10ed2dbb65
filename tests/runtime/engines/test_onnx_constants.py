"""Constants that become giant at load: refused by name before an engine folds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgedet.contract.errors import EngineError
from edgedet.contract.spec_check import MAX_ELEMENTS
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.onnx_constants import Known, _result
from edgedet.runtime.engines.onnx_metadata import checked_metadata

Make = Callable[..., Path]
Node = tuple[str, Sequence[str], dict[str, Any]]

BIG = 2_000_000


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture
def write(brightness: Path, tmp_path: Path) -> Make:
    """write(constants, node, ...) -> the tests' model, with these nodes before its own, into t0, ..."""

    def make(constants: dict[str, np.ndarray], *nodes: Node) -> Path:
        model = onnx.load(brightness)
        del model.metadata_props[:]
        spec = read_spec(brightness)
        helper.set_model_props(model, {"edgedet.spec": spec.to_json()})
        more = [helper.make_node(op, list(given), [f"t{k}"], **a) for k, (op, given, a) in enumerate(nodes)]
        own = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*more, *own])
        model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
        path = tmp_path / "made.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make


BOMBS: dict[str, tuple[dict[str, np.ndarray], list[Node]]] = {
    "ConstantOfShape": ({"s": i64(BIG, BIG)}, [("ConstantOfShape", ["s"], {})]),
    "Expand": ({"x": f32(1), "s": i64(BIG, BIG)}, [("Expand", ["x", "s"], {})]),
    "Expand of an image": ({"s": i64(BIG, 1, 1, BIG)}, [("Expand", ["images", "s"], {})]),
    "Tile": ({"x": f32(1, 2), "s": i64(1 << 40)}, [("Tile", ["x", "s"], {})]),
    "Tile of an image": ({"s": i64(1, 1, BIG, BIG)}, [("Tile", ["images", "s"], {})]),
    "Range": ({"a": i64(0)[0], "b": i64(1 << 40)[0], "c": i64(1)[0]}, [("Range", ["a", "b", "c"], {})]),
    "Range of small steps": (
        {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-12)},
        [("Range", ["a", "b", "c"], {})],
    ),
    "Pad": ({"x": f32(1), "s": i64(0, 1 << 40)}, [("Pad", ["x", "s"], {})]),
    "Pad of an image": ({"s": i64(0, 0, 0, 0, 0, 0, BIG, BIG)}, [("Pad", ["images", "s"], {})]),
    "Resize": ({"s": f32(1, 1, 1e9, 1e9)}, [("Resize", ["images", "", "s"], {})]),
    "Resize to infinity": ({"s": f32(1, 1, np.inf, 1)}, [("Resize", ["images", "", "s"], {})]),
    "OneHot": (
        {"x": i64(1, 2), "d": i64(1 << 40), "v": f32(0, 1)},
        [("OneHot", ["x", "d", "v"], {})],
    ),
    "values that broadcast": (
        {"x": np.ones((10_000, 1), np.float32), "y": np.ones((1, 10_000), np.float32)},
        [("Add", ["x", "y"], {})],
    ),
    "a product": (
        {"x": np.ones((10_000, 1), np.float32), "y": np.ones((1, 10_000), np.float32)},
        [("MatMul", ["x", "y"], {})],
    ),
    "doubled again and again": (
        {"x": f32(*range(64))},
        [("Concat", ["x" if k == 0 else f"t{k - 1}"] * 2, {"axis": 0}) for k in range(40)],
    ),
    "many that are large": (
        {"s": i64(1 << 22)},
        [("ConstantOfShape", ["s"], {}) for _ in range(20)],
    ),
    "a size that is computed": (
        {"x": i64(BIG, BIG), "y": i64(1, 1)},
        [("Mul", ["x", "y"], {}), ("ConstantOfShape", ["t0"], {})],
    ),
    "a size that is put together": (
        {"x": i64(BIG), "y": i64(0), "zero": i64(0), "big": i64(BIG)},
        [
            ("Concat", ["x", "y"], {"axis": 0}),
            ("Gather", ["t0", "zero"], {"axis": 0}),
            ("Mul", ["t1", "big"], {}),
            ("ConstantOfShape", ["t2"], {}),
        ],
    ),
    "a size in a Constant": (
        {},
        [("Constant", [], {"value_ints": [BIG, BIG]}), ("ConstantOfShape", ["t0"], {})],
    ),
    "chance": ({}, [("RandomNormal", [], {"shape": [BIG, BIG]})]),
    "another's operator": ({"x": f32(1)}, [("Blow", ["x"], {"domain": "com.example"})]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_an_engine_has_it(name: str, write: Make) -> None:
    path = write(BOMBS[name][0], *BOMBS[name][1])
    assert path.stat().st_size < 200_000
    said = "(becom|mak)e.* values|works on constants alone"
    for engine in ("openvino", "onnxruntime"):
        with pytest.raises(EngineError, match=said):
            open_engine(path, engine=engine)


@pytest.mark.parametrize("dims", [[BIG, BIG], [-1, 4], [1] * 70], ids=["values", "below zero", "dimensions"])
def test_a_tensor_that_claims_what_is_not_there(dims: list[int], write: Make) -> None:
    path = write({})
    model = onnx.load(path)
    model.graph.initializer.append(TensorProto(name="claimed", data_type=TensorProto.FLOAT, dims=dims))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"'claimed' has (fewer bytes than values|70 dimensions)"):
        checked_metadata(path)


def test_a_constant_without_a_tensor(write: Make) -> None:
    path = write({}, ("Constant", [], {"value_int": 3}))
    assert checked_metadata(path)
    model = onnx.load(path)
    del model.graph.node[0].attribute[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="a Constant holds no tensor"):
        checked_metadata(path)


def test_sizes_that_exporters_compute_are_followed(write: Make) -> None:
    """torch's padding, not simplified: as many zeros as the list of pads is too short by."""
    path = write(
        {"p": np.asarray(1, np.int64), "first": i64(0), "place": np.asarray(0, np.int64), "sides": i64(8)},
        ("Unsqueeze", ["p", "first"], {}),
        ("Concat", ["t0", "t0", "t0", "t0"], {"axis": 0}),
        ("Shape", ["t1"], {}),
        ("Gather", ["t2", "place"], {"axis": 0}),
        ("Sub", ["sides", "t3"], {}),
        ("ConstantOfShape", ["t4"], {}),
    )
    assert checked_metadata(path)


SOUND: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
    "ConstantOfShape": ("ConstantOfShape", [i64(3, 4)], {}),
    "Expand": ("Expand", [f32(1, 2), i64(3, 1)], {}),
    "Tile": ("Tile", [np.ones((2, 3), np.float32), i64(2, 2)], {}),
    "Range": ("Range", [i64(2)[0], i64(11)[0], i64(2)[0]], {}),
    "Range downwards": ("Range", [i64(9)[0], i64(0)[0], i64(-4)[0]], {}),
    "Pad": ("Pad", [np.ones((2, 3), np.float32), i64(0, 1, 2, 3)], {}),
    "OneHot": ("OneHot", [i64(1, 2, 0), i64(4)[0], f32(0, 1)], {}),
    "Add": ("Add", [np.ones((3, 1), np.float32), np.ones((1, 4), np.float32)], {}),
    "Where": ("Where", [np.ones((2, 1, 1), bool), np.ones((3, 1), np.float32), f32(1, 2)], {}),
    "MatMul": ("MatMul", [np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)], {}),
    "Gather": ("Gather", [np.ones((5, 2), np.float32), i64(0, 1, 1, 4)], {"axis": 0}),
    "Concat": ("Concat", [f32(1, 2), f32(3), f32(4, 5, 6)], {"axis": 0}),
    "Reshape": ("Reshape", [np.ones((2, 6), np.float32), i64(3, -1)], {}),
    "Slice": ("Slice", [np.ones((2, 6), np.float32), i64(0), i64(1)], {}),
    "ReduceSum": ("ReduceSum", [np.ones((2, 6), np.float32), i64(1)], {}),
    "Transpose": ("Transpose", [np.ones((2, 6), np.float32)], {}),
    "DequantizeLinear": ("DequantizeLinear", [np.ones((4, 3), np.int8), np.ones(4, np.float32)], {"axis": 0}),
    "Shape": ("Shape", [np.ones((2, 6), np.float32)], {}),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_bound_is_no_less_than_what_is_made(name: str) -> None:
    """Against ONNX's own reference; and so near that nothing sound is refused."""
    op, arrays, attributes = SOUND[name]
    names = [f"x{k}" for k in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [],
        [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    (made,) = ReferenceEvaluator(model).run(None, {})
    known = [Known(a.size, a.shape, tuple(map(float, a.ravel())) if a.size <= 64 else None) for a in arrays]
    found = _result(op, known)
    assert found is not None
    assert np.size(made) <= found.size <= max(64, 10 * np.size(made))
    if found.shape is not None:
        assert found.shape == np.shape(made)


def test_what_edgedet_writes_of_constants_passes(write: Make) -> None:
    assert MAX_ELEMENTS > 10_000_000
    weights = np.ones((512, 512, 3, 3), np.int8)
    path = write(
        {"w": weights, "s": np.float32(0.1), "z": np.int8(0), "n": i64(0, 0, 100, 100, 0, 0, 100, 100)},
        ("DequantizeLinear", ["w", "s", "z"], {}),
        ("Pad", ["images", "n"], {}),
    )
    assert checked_metadata(path)
