from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgedet.calib import PLACEMENTS, Placement, Range, Scales, graph_hash, observe, quantise
from edgedet.calib.qdq import quantisable_layers, quantise_weight
from edgedet.calib.sensitivity import signal_to_noise
from edgedet.contract.errors import CalibrationError, UsageError

LAYERS = ["first", "stem", "wide", "deep", "narrow", "left", "right", "head"]


@pytest.fixture
def scales(core, images) -> Scales:
    return observe(core, iter(images), total=12, data=lambda: "noise")


class Graph:
    """Look-ups in a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model, full_check=True)
        self.nodes = {n.name: n for n in model.graph.node}
        self.maker = {o: n for n in model.graph.node for o in n.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.readers: dict[str, list[str]] = {}
        for n in model.graph.node:
            for i in n.input:
                self.readers.setdefault(i, []).append(n.name)


@pytest.mark.parametrize("target", PLACEMENTS)
def test_every_convolution_reads_integers(core, scales, target):
    done = quantise(core, scales, PLACEMENTS[target])
    assert list(done.int8) == quantisable_layers(core, PLACEMENTS[target]) == LAYERS
    assert done.float == ()
    g = Graph(done.graph)
    for layer in done.int8:
        data, weight = (g.maker[i] for i in g.nodes[layer].input[:2])
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        q = g.maker[data.input[0]]
        assert q.op_type == "QuantizeLinear"
        assert list(q.input[1:]) == list(data.input[1:])
        # weights: int8, zero point 0, one scale per output channel
        stored, scale, zero = (g.constants[i] for i in weight.input)
        assert stored.dtype == np.int8
        assert not zero.any()
        assert scale.shape == (len(stored),)
        assert next(a.i for a in weight.attribute if a.name == "axis") == 0
        magnitudes = np.sort(np.abs(stored.astype(int)).reshape(len(stored), -1), axis=1)
        if PLACEMENTS[target].pairs_fit:
            pairs = magnitudes[:, -2:].sum(axis=1)
            assert ((pairs >= 110) & (pairs <= 128)).all(), "the range of 16 bits is used, and not left"
        else:
            assert (magnitudes[:, -1] >= 111).all()
        # the bias is as it was
        assert g.constants[g.nodes[layer].input[2]].dtype == np.float32
    # nothing behind the heads, nothing between a convolution and its activation
    assert "grid" not in g.readers
    assert g.maker["grid"].op_type == "Conv"
    for name, node in g.nodes.items():
        if node.op_type == "Clip":
            assert g.maker[node.input[0]].op_type == "Conv", name


def test_tensorrt_takes_signed_symmetric_only(core, scales):
    g = Graph(quantise(core, scales, PLACEMENTS["tensorrt-rtx"]).graph)
    pairs = [n for n in g.nodes.values() if n.op_type == "QuantizeLinear"]
    for n in pairs:
        zero = g.constants[n.input[2]]
        assert zero.dtype == np.int8
        assert zero == 0
        scale = g.constants[n.input[1]]
        assert float(np.float16(scale)) == float(scale), "float16 must hold it"
    # one Q per tensor, however many read it: the block's input is read by a convolution and the Add
    assert len({n.input[0] for n in pairs}) == len(pairs)
    assert sorted(g.readers["stem/dq"]) == ["narrow/add", "wide"]
    # the branch that the Add is fused into stays float
    assert "narrow" in g.nodes["narrow/add"].input
    assert g.nodes["left/clip/concat"].input[0] == "left/clip"


def test_openvino_gets_unsigned_after_relu(core, scales):
    g = Graph(quantise(core, scales, PLACEMENTS["openvino"]).graph)
    kinds = {n.input[0]: g.constants[n.input[2]] for n in g.nodes.values() if n.op_type == "QuantizeLinear"}
    assert all(z == 0 for z in kinds.values())
    assert {t for t, z in kinds.items() if z.dtype == np.uint8} == {
        "first/clip",
        "wide/clip",
        "deep/clip",
        "left/clip/concat",
    }


def test_onnx_runtime_gets_them_everywhere(core, scales):
    g = Graph(quantise(core, scales, PLACEMENTS["onnxruntime"]).graph)
    for op in ("Add", "Concat"):
        node = next(n for n in g.nodes.values() if n.op_type == op)
        assert all(g.maker[i].op_type == "DequantizeLinear" for i in node.input)
        assert {g.nodes[r].op_type for r in g.readers[node.output[0]]} == {"QuantizeLinear"}
    # a Concat only copies bytes if all its tensors have one scale
    names = ("left/clip", "right/clip", "left/clip/concat")
    assert len({float(g.constants[f"{n}/scale"]) for n in names}) == 1
    assert all(
        g.constants[n.input[2]].dtype == np.uint8 for n in g.nodes.values() if n.op_type == "QuantizeLinear"
    )


@pytest.mark.parametrize("target", PLACEMENTS)
def test_the_numbers_stay(core, scales, images, target):
    graph = quantise(core, scales, PLACEMENTS[target]).graph
    assert signal_to_noise(core, graph, images) > 30  # decibels; 8 bits give about 35 in one layer
    assert graph_hash(core) == scales.graph, "the float graph was not touched"


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_openvino_and_onnx_runtime_compute_the_same(core, scales, images, target):
    # not so for TensorRT's placement: OpenVINO computes signed activations behind a ReLU less exactly
    openvino = pytest.importorskip("openvino")
    graph = quantise(core, scales, PLACEMENTS[target]).graph
    data = graph.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for image in images[:3]:
        want = session.run(None, image)[0]
        got = compiled(image)[0]
        # values on the edge of a step may round to either side
        assert np.abs(want - got).mean() < 0.02 * np.abs(want).mean()


def test_layers_left_in_float_are_left_alone(core, scales, images):
    done = quantise(core, scales, PLACEMENTS["tensorrt"], keep_float=["deep", "head"])
    assert done.float == ("deep", "head")
    g = Graph(done.graph)
    assert list(g.nodes["deep"].input) == ["wide/clip", "deep.weight", "deep.bias"]
    assert g.nodes["head"].input[0] == "left/clip/concat"
    assert g.constants["deep.weight"].dtype == np.float32
    assert "wide/clip/q" not in g.maker, "nothing reads it in INT8"
    everything = quantise(core, scales, PLACEMENTS["tensorrt"], keep_float=LAYERS)
    assert signal_to_noise(core, everything.graph, images) > 120


def test_weights_are_stored_once_and_small(core, scales):
    done = quantise(core, scales, PLACEMENTS["openvino"]).graph
    kinds = [t.data_type for t in done.graph.initializer if ".weight" in t.name and t.name.endswith("/q")]
    assert kinds == [TensorProto.INT8] * len(LAYERS)
    assert not any(t.name.endswith(".weight") for t in done.graph.initializer)


def test_rounding_of_weights():
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 4, 3, 3)) * np.logspace(-6, 2, 6)[:, None, None, None]).astype(
        np.float32
    )
    weight[2] = 0
    for placement in (Placement(), Placement(half=True)):
        stored, scale = quantise_weight(weight, placement, 0)
        error = (stored * scale[:, None, None, None] - weight).reshape(6, -1)
        assert (np.abs(error).max(axis=1) <= scale + 1e-12).all()
        # few are rounded the other way, so that the errors of a channel cancel
        assert (np.abs(error) > 0.5 * scale[:, None] + 1e-12).mean() < 0.2
        if not placement.half:  # a scale rounded down to float16 may clip the largest value a little
            assert (np.abs(error.sum(axis=1)) <= 0.51 * scale + 1e-9).all()
        assert not stored[2].any()
        assert (scale > 0).all()


def test_no_two_products_overflow_16_bits():
    """For any two weights of a channel and any activations, by the stored integers alone."""
    rng = np.random.default_rng(0)
    shapes = [(64, 3, 3, 3), (7, 1, 3, 3), (40, 96, 1, 1), (5, 1, 1, 1), (3, 2, 1, 1)]
    kinds = [
        lambda shape: rng.standard_normal(shape),
        lambda shape: rng.standard_cauchy(shape),
        lambda shape: rng.integers(-3, 4, shape) / 2,  # ties, halves and zeros
        lambda shape: np.full(shape, -1.0),  # both of the largest are equal: 63.5 steps each
        lambda shape: rng.standard_normal(shape) * 1e-42,  # subnormal
        lambda shape: np.zeros(shape),
    ]
    for placement in (PLACEMENTS["openvino"], PLACEMENTS["onnxruntime"]):
        assert placement.pairs_fit
        for shape in shapes * 20:
            for kind in kinds:
                for axis in (0, 1):
                    weight = kind(shape).astype(np.float32)
                    stored, scale = quantise_weight(weight, placement, axis)
                    rows = np.moveaxis(stored.astype(int), axis, 0).reshape(shape[axis], -1)
                    signed = np.sort(rows, axis=1)
                    pairs = [signed[:, -2:], signed[:, :2]] if rows.shape[1] > 1 else [signed]
                    for pair in pairs:
                        sums = 255 * pair.sum(axis=1)
                        assert sums.max() <= 32640
                        assert sums.min() >= -32640
                    largest = np.sort(np.abs(rows), axis=1)[:, -2:].sum(axis=1)
                    assert largest.max() <= (128 if rows.shape[1] > 1 else 127)
                    steps = scale.reshape([-1 if i == axis else 1 for i in range(4)])
                    assert (np.abs(stored * steps - weight) < 1.001 * steps).all()
    # a GPU adds in 32 bits: all 8 are used
    assert not any(PLACEMENTS[t].pairs_fit for t in ("tensorrt", "tensorrt-rtx"))
    stored, _ = quantise_weight(np.ones((2, 4, 1, 1), np.float32), PLACEMENTS["tensorrt"], 0)
    assert (stored > 64).all()


def test_errors_of_rounding_do_not_shift_a_channel(core, scales):
    """Inputs behind a ReLU are positive: errors of the weights that do not cancel shift the output."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 96, 1, 1)).astype(np.float32)
    inputs = 3 + rng.uniform(-1, 1, (200, 96))
    for placement in PLACEMENTS.values():
        stored, scale = quantise_weight(weight, placement, 0)
        got = inputs @ (stored.reshape(64, 96) * scale[:, None]).T - inputs @ weight.reshape(64, 96).T
        nearest = np.rint(weight.reshape(64, 96) / scale[:, None]) * scale[:, None]
        plain = inputs @ nearest.T - inputs @ weight.reshape(64, 96).T
        assert np.square(got).mean() < 0.3 * np.square(plain).mean()


def test_scales_of_another_graph_and_unknown_layers_are_refused(core, scales):
    with pytest.raises(CalibrationError, match="another graph"):
        quantise(core, replace(scales, graph="0" * 64), PLACEMENTS["openvino"])
    with pytest.raises(UsageError, match="'deap'"):
        quantise(core, scales, PLACEMENTS["openvino"], keep_float=["deap"])


def test_a_dead_tensor_has_a_scale(core, scales):
    dead = replace(scales, ranges={**scales.ranges, "wide/clip": Range(0.0, 0.0)})
    for placement in PLACEMENTS.values():
        g = Graph(quantise(core, dead, placement).graph)
        assert g.constants["wide/clip/scale"] > 0
