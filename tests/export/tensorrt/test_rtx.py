from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.calib import PLACEMENTS, observe, quantise
from edgedet.contract.errors import TargetError, UsageError
from edgedet.export.passes.half import to_half
from edgedet.export.tensorrt.rtx import build_rtx, check_int8, check_sms
from edgedet.runtime.engines.plan_spec import read_plan_spec


@pytest.fixture(scope="module")
def int8(exported):
    rng = np.random.default_rng(0)
    images = [
        {"images": rng.normal(0, 1, (1, 3, *exported.spec.input.size)).astype(np.float32)} for _ in range(4)
    ]
    scales = observe(exported.graphs.core, iter(images), total=4, data=lambda: "noise")
    return quantise(exported.graphs.core, scales, PLACEMENTS["tensorrt-rtx"], keep_float=["head.3"])


def test_turing_and_int8():
    check_sms((75, 86), int8=False)
    check_sms((86, 89, 120), int8=True)
    with pytest.raises(TargetError, match="SM75") as e:
        check_sms((75, 86, 120), int8=True)
    assert "--sm 86,120" in e.value.hint
    with pytest.raises(UsageError, match="--sm 87"):
        check_sms((87,), int8=True)


def test_an_int8_plan_says_that_it_is_int8(exported, int8, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx")
    spec = exported.graphs.spec.with_(precision="int8")
    plan, types = build_rtx(to_half(int8.graph), spec, (86, 89), int8=int8.int8)
    kinds = [types[name] for name in int8.int8]
    assert kinds == [("int8", "int8")] * len(int8.int8)
    assert types["head.3"] == ("half", "half")

    path = tmp_path / "yolo.plan"
    path.write_bytes(plan)
    found = read_plan_spec(path)
    assert found.build["compute_capabilities"] == "86,89"
    assert found.build["precision"] == "int8"
    assert found.with_(build={}) == spec


def test_a_plan_that_lost_its_int8_is_refused(exported, int8):
    pytest.importorskip("tensorrt_rtx")
    graph = to_half(int8.graph)
    with pytest.raises(TargetError, match=r"expected 54; .* 'head\.3', is half/half"):
        build_rtx(graph, exported.graphs.spec, (86,), int8=(*int8.int8, "head.3"))
    with pytest.raises(TargetError, match="1 INT8 convolutions, expected 0"):
        check_int8({"a": ("int8", "int8")}, ())
    with pytest.raises(TargetError, match="'b', is absent"):
        check_int8({"a": ("int8", "int8")}, ("a", "b"))


def test_a_float16_plan(exported):
    pytest.importorskip("tensorrt_rtx")
    plan, types = build_rtx(to_half(exported.graphs.core), exported.graphs.spec, (75, 86))
    assert set(types.values()) == {("half", "half")}
    assert len(plan) > 1_000_000


def refused(node: onnx.NodeProto, domain: str = "") -> onnx.ModelProto:
    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])
    k = numpy_helper.from_array(np.array([4000], np.int64), "k")
    graph = helper.make_graph([node], "g", [value], [helper.make_empty_tensor_value_info("y")], [k])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] * bool(domain))]
    )


def test_what_the_library_refuses_is_named(exported):
    pytest.importorskip("tensorrt_rtx")
    spec = exported.graphs.spec
    with pytest.raises(TargetError, match="tensorrt_rtx cannot take 'odd'"):
        build_rtx(refused(helper.make_node("NonZero", ["images"], ["y"], name="odd")), spec, (86,))
    # its parser would abort the process on a plugin's name
    custom = helper.make_node("EfficientNMS_TRT", ["images"], ["y"], domain="trt.plugins")
    with pytest.raises(TargetError, match=r"trt\.plugins"):
        build_rtx(refused(custom, "trt.plugins"), spec, (86,))
