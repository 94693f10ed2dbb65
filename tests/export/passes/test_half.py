from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edgedet.contract.boxes import area, pairwise_iou
from edgedet.contract.errors import ExportError
from edgedet.export.graph import export_graphs
from edgedet.export.passes.half import to_half
from edgedet.models import make_spec
from edgedet.models.faster_rcnn import FasterRcnn


def test_types_and_values(exported):
    core = exported.graphs.core
    half = to_half(core)
    # ONNX wants the factors of a Resize in float32
    factors = {n.input[2] for n in half.graph.node if n.op_type == "Resize"}
    others = [t for t in half.graph.initializer if t.name not in factors]
    assert {t.data_type for t in others} == {TensorProto.FLOAT16}
    kinds = {v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)}
    assert kinds == {TensorProto.FLOAT}
    assert sum(n.op_type == "Cast" for n in half.graph.node) == 2
    assert half.ByteSize() < 0.52 * core.ByteSize()

    images = np.random.default_rng(0).normal(0, 1, (2, 3, *exported.spec.input.size)).astype(np.float32)
    want, got = (
        onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for g in (core, half)
    )
    assert np.abs(want - got).max() < 0.02 * np.abs(want).max()


def test_what_float16_cannot_hold(exported):
    core = onnx.ModelProto()
    core.CopyFrom(exported.graphs.core)
    weight = next(t for t in core.graph.initializer if t.name == "head.3.bias")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"head\.3\.bias holds 1e\+05"):
        to_half(core)


@pytest.fixture(scope="module")
def two_stage():
    """On an input where the area of a box does not fit into float16."""
    torch.manual_seed(0)
    model = FasterRcnn(3, width=16, hidden=32, proposals=64, pretrained=False)
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas):
            layer.weight.mul_(30)
        model.rpn.deltas.bias[2::4], model.rpn.deltas.bias[3::4] = 2.0, 2.0  # larger than anchors are
    return export_graphs(model, make_spec("faster-rcnn", model, ("a", "b", "c"), size=(288, 288))).core


def kinds(graph):
    typed = onnx.shape_inference.infer_shapes(graph).graph
    values = (*typed.input, *typed.value_info, *typed.output)
    found = {v.name: v.type.tensor_type.elem_type for v in values}
    return found | {t.name: t.data_type for t in graph.graph.initializer}


def test_coordinates_stay_float32(two_stage):
    half = to_half(two_stage)
    kind = kinds(half)
    maker = {o: n for n in half.graph.node for o in n.output}
    ahead, seen = ["proposals", "objectness"], set()
    while ahead:  # back to where feature maps end
        name = ahead.pop()
        if name in seen or name not in maker:
            continue
        seen.add(name)
        assert kind[name] != TensorProto.FLOAT16, name
        if maker[name].op_type != "Cast" or kind[maker[name].input[0]] != TensorProto.FLOAT16:
            ahead += maker[name].input
    assert len(seen) > 100
    for node in half.graph.node:
        if node.op_type == "Conv":
            assert {kind[t] for t in node.input} == {TensorProto.FLOAT16}, node.name
    # the two matrices of RoIAlign on each of three levels are float16, those of suppression are not
    matrices = [kind[n.output[0]] for n in half.graph.node if n.op_type == "MatMul"]
    assert matrices.count(TensorProto.FLOAT16) == 6
    assert matrices.count(TensorProto.FLOAT) == 24


def test_regions_in_float16_are_those_of_float32(two_stage):
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 288, 288)).astype(np.float32)
    want, got = (
        onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["proposals"], {"images": images}
        )[0]
        for g in (two_stage, to_half(two_stage))
    )
    assert area(want).max() > 65504, "float16 has no number for it"
    for boxes, others in zip(want, got, strict=True):
        some = boxes[area(boxes) > 0]
        assert len(some) > 20
        found = pairwise_iou(some, others).max(axis=1) > 0.9
        assert found.mean() > 0.9
