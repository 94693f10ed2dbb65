"""INT8 through heads that feed other layers: a feature pyramid."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.calib import PLACEMENTS, observe, quantisable, quantise
from edgedet.calib.observe import Feed, cpu_session
from edgedet.calib.sensitivity import signal_to_noise
from edgedet.export.graph import Graphs
from edgedet.export.passes.half import to_half

SIZE = 32
HEADS = {"p3": 16, "p4": 8, "p5": 4, "p6": 2}
"""Name -> height and width; p4 feeds a Resize and p5, p5 the ReLU before p6."""


def make_pyramid() -> onnx.ModelProto:
    """images (N, 3, 32, 32) -> four heads of 6 channels."""
    rng = np.random.default_rng(0)
    n = helper.make_node
    constants = {
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }

    def conv(target: str, source: str, inputs: int, outputs: int, kernel: int, stride: int = 1):
        weight = rng.standard_normal((outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2)
        constants[f"{target}.weight"] = weight.astype(np.float32)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return n("Conv", [source, f"{target}.weight"], [target], name=target, pads=pads, strides=strides)

    def clip(source: str):
        return n("Clip", [source, "zero", "six"], [f"{source}/clip"], name=f"{source}/clip")

    nodes = [
        conv("c3", "images", 3, 8, 3, 2),
        clip("c3"),
        conv("c4", "c3/clip", 8, 8, 3, 2),
        clip("c4"),
        conv("p4", "c4/clip", 8, 6, 1),
        n("Resize", ["p4", "", "scales"], ["up"], name="up", mode="nearest"),
        conv("lateral", "c3/clip", 8, 6, 1),
        n("Add", ["lateral", "up"], ["sum"], name="sum"),
        conv("p3", "sum", 6, 6, 3),
        conv("p5", "p4", 6, 6, 3, 2),
        clip("p5"),
        conv("p6", "p5/clip", 6, 6, 3, 2),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "pyramid",
        [value("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [value(k, TensorProto.FLOAT, ["batch", 6, v, v]) for k, v in HEADS.items()],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def pyramid() -> onnx.ModelProto:
    return make_pyramid()


@pytest.fixture(scope="module")
def noise() -> list[Feed]:
    rng = np.random.default_rng(1)
    return [{"images": rng.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(6)]


@pytest.fixture(scope="module")
def scales(pyramid, noise):
    return observe(pyramid, iter(noise), total=6, data=lambda: "noise")


def test_a_head_is_looked_at_where_a_layer_reads_it(pyramid, scales):
    assert "p4" in quantisable(pyramid)
    assert not {"p3", "p5", "p6"} & set(quantisable(pyramid))
    assert scales.ranges["p4"].low < 0 < scales.ranges["p4"].high


@pytest.mark.parametrize("target", PLACEMENTS)
def test_the_head_stays_float_and_the_layer_reads_integers(pyramid, scales, noise, target):
    done = quantise(pyramid, scales, PLACEMENTS[target])
    onnx.checker.check_model(done.graph, full_check=True)
    assert done.float == ()
    maker = {o: node for node in done.graph.graph.node for o in node.output}
    nodes = {node.name: node for node in done.graph.graph.node}
    assert [o.name for o in done.graph.graph.output] == list(HEADS)
    assert {maker[h].op_type for h in HEADS} == {"Conv"}, "a head is what the convolution gives"
    assert nodes["p5"].input[0] == "p4/dq"
    assert maker["p4/dq"].op_type == "DequantizeLinear"
    assert signal_to_noise(pyramid, done.graph, noise) > 25


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_both_engines_compute_what_is_written(pyramid, scales, noise, target):
    graph = quantise(pyramid, scales, PLACEMENTS[target]).graph
    data = graph.SerializeToString()
    exact = cpu_session(graph, exact=True)
    fused = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.read_model(data)
    # as edgedet does it; with a free batch OpenVINO 2026.4 reads zeros behind a head
    model.reshape({"images": [1, 3, SIZE, SIZE]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in noise[:3]:
        want = exact.run(None, image)
        for got in (fused.run(None, image), list(compiled(image).values())):
            for a, b in zip(want, got, strict=True):
                # values on the edge of a step may round to either side
                assert np.abs(a - b).mean() < 0.03 * np.abs(a).mean()


def test_decode_and_float16_take_such_a_graph(pyramid, scales, noise):
    def values(end: str) -> list[onnx.ValueInfoProto]:
        value = helper.make_tensor_value_info
        return [value(f"{h}{end}", TensorProto.FLOAT, ["batch", 6, v, v]) for h, v in HEADS.items()]

    nodes = [helper.make_node("Neg", [h], [f"{h}/result"], name=f"decode/{h}") for h in HEADS]
    graph = helper.make_graph(nodes, "decode", values(""), values("/result"))
    decode = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = SimpleNamespace(outputs=[SimpleNamespace(name=h) for h in HEADS])
    quantised = quantise(pyramid, scales, PLACEMENTS["tensorrt"]).graph
    want = cpu_session(quantised, exact=True).run(None, noise[0])
    decoded = Graphs(spec, pyramid, decode).decoded(quantised)
    for a, b in zip(want, cpu_session(decoded, exact=True).run(None, noise[0]), strict=True):
        np.testing.assert_array_equal(-a, b)
    half = cpu_session(to_half(quantised), exact=True).run(None, noise[0])
    for a, b in zip(want, half, strict=True):
        assert np.abs(a - b).mean() < 0.05 * np.abs(a).mean()
