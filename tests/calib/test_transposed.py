"""INT8 through a decoder: pooling, transposed convolution, a skip connection, a Resize."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.calib import PLACEMENTS, observe, quantisable, quantise
from edgedet.calib.observe import Feed
from edgedet.calib.sensitivity import rank, signal_to_noise
from edgedet.contract.errors import CalibrationError

SIZE = 16
LAYERS = ("first", "low", "up", "up2", "head")
TRANSPOSED = ("up", "up2")


def make_decoder() -> onnx.ModelProto:
    """images (N, 3, 16, 16) -> logits (N, 5, 32, 32); the sizes of its Resize are computed."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    up = weight(6, 6, 4, 4) * np.logspace(-0.3, 0.3, 6)[None, :, None, None].astype(np.float32)
    constants = {
        "first.weight": weight(8, 3, 3, 3),
        "low.weight": weight(6, 8, 3, 3),
        "up.weight": up,
        "head.weight": weight(5, 14, 1, 1),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "size": np.array([2 * SIZE, 2 * SIZE], np.int64),
    }
    same, twice = {"pads": [1] * 4}, {"pads": [1] * 4, "strides": [2, 2]}
    n = helper.make_node
    nodes = [
        n("Conv", ["images", "first.weight"], ["first"], **same),
        n("Clip", ["first", "zero", "six"], ["first/clip"]),
        n("MaxPool", ["first/clip"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        n("MaxPool", ["pool"], ["pool_2"], kernel_shape=[2, 2], strides=[2, 2]),
        n("Conv", ["pool_2", "low.weight"], ["low"], **same),
        # both read one constant, as two layers with equal weights do after simplification
        n("ConvTranspose", ["low", "up.weight"], ["up"], **twice),
        n("ConvTranspose", ["up", "up.weight"], ["up2"], **twice),
        n("Concat", ["first/clip", "up2"], ["concat"], axis=1),
        n("Shape", ["concat"], ["shape"], start=0, end=2),
        n("Concat", ["shape", "size"], ["sizes"], axis=0),
        n("Resize", ["concat", "", "", "sizes"], ["resize"], mode="linear"),
        n("Conv", ["resize", "head.weight"], ["logits"]),
    ]
    for node in nodes:
        node.name = "head" if node.output[0] == "logits" else node.output[0]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5, 2 * SIZE, 2 * SIZE])
    tensors = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "edgedet", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def decoder() -> onnx.ModelProto:
    return make_decoder()


@pytest.fixture(scope="module")
def noise() -> list[Feed]:
    rng = np.random.default_rng(1)
    return [{"images": rng.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(6)]


@pytest.fixture(scope="module")
def scales(decoder, noise):
    return observe(decoder, iter(noise), total=6, data=lambda: "noise")


def test_sizes_are_no_tensors_to_quantise(decoder):
    found = quantisable(decoder)
    assert {"low", "up", "concat", "resize", "first/clip"} <= set(found)
    assert not {"shape", "sizes", "size"} & set(found)


def test_weights_have_a_scale_per_output_channel(decoder, scales):
    done = quantise(decoder, scales, PLACEMENTS["openvino"])
    assert (done.int8, done.float, done.unsupported) == (LAYERS, (), ())
    onnx.checker.check_model(done.graph, full_check=True)
    nodes = {x.name: x for x in done.graph.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in done.graph.graph.initializer}
    for layer in TRANSPOSED:
        weight = nodes[nodes[layer].input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert [a.i for a in weight.attribute if a.name == "axis"] == [1]
        stored, scale, _ = (constants[i] for i in weight.input)
        assert (stored.dtype, scale.shape) == (np.int8, (6,))
        channels = np.sort(np.abs(stored.astype(int)).transpose(1, 0, 2, 3).reshape(6, -1), axis=1)
        pairs = channels[:, -2:].sum(axis=1)
        assert ((pairs >= 110) & (pairs <= 128)).all()
        assert nodes[nodes[layer].input[0]].op_type == "DequantizeLinear"


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_where_an_engine_has_none_they_stay_float(decoder, scales, noise, target):
    done = quantise(decoder, scales, PLACEMENTS[target])
    assert PLACEMENTS[target].float_transposed
    assert (done.float, done.unsupported) == (TRANSPOSED, TRANSPOSED)
    nodes = {x.name: x for x in done.graph.graph.node}
    assert {nodes[x].input[1] for x in TRANSPOSED} == {"up.weight"}
    # ONNX Runtime runs the convolution before it in INT8 only with a Q behind that
    assert nodes["up"].input[0] == ("low/dq" if target == "onnxruntime" else "low")
    assert "up" not in [layer for layer, _ in rank(decoder, scales, PLACEMENTS[target], noise[:1])]


@pytest.mark.parametrize("target", PLACEMENTS)
def test_the_numbers_stay(decoder, scales, noise, target):
    done = quantise(decoder, scales, PLACEMENTS[target])
    assert signal_to_noise(decoder, done.graph, noise) > 28


def test_ranges_through_pooling_and_concat(decoder, scales):
    def parameters(target: str) -> dict[str, tuple[float, int]]:
        found = quantise(decoder, scales, PLACEMENTS[target]).graph.graph
        values = {t.name: numpy_helper.to_array(t) for t in found.initializer}
        pairs = [x for x in found.node if x.op_type == "QuantizeLinear"]
        return {x.input[0]: (float(values[x.input[1]]), int(values[x.input[2]])) for x in pairs}

    unsigned = parameters("onnxruntime")
    assert unsigned["first/clip"] == unsigned["pool"] == unsigned["pool_2"], "pooling copies bytes"
    assert unsigned["first/clip"][1] == 0, "its ReLU is part of Q only with a zero point of 0"
    assert unsigned["up2"] != unsigned["first/clip"]
    signed = parameters("tensorrt-rtx")
    assert set(signed) == {"images", "pool_2", "resize"}


def test_openvino_runs_them_in_int8(decoder, scales):
    openvino = pytest.importorskip("openvino")
    graph = quantise(decoder, scales, PLACEMENTS["openvino"]).graph
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph.SerializeToString()), "CPU")
    nodes = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [
        n["runtimePrecision"].astype(str) for n in nodes if n["layerType"].astype(str) == "Deconvolution"
    ]
    assert len(kinds) == len(TRANSPOSED)
    assert set(kinds) <= {"i8", "u8"}


def test_a_calibration_without_them_is_refused(decoder, scales):
    older = replace(scales, ranges={k: v for k, v in scales.ranges.items() if k != "low"})
    with pytest.raises(CalibrationError, match="no range for 'low'"):
        quantise(decoder, older, PLACEMENTS["openvino"])
