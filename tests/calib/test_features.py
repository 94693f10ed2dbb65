"""A two-stage detector in INT8: feature maps are quantised, coordinates are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgedet.calib import PLACEMENTS, observe, quantisable, quantise
from edgedet.calib.features import features
from edgedet.calib.observe import cpu_session
from edgedet.calib.scales import binding
from edgedet.export.graph import export_graphs, with_spec
from edgedet.models import make_spec
from edgedet.models.faster_rcnn import FasterRcnn
from edgedet.models.mask_rcnn import MaskRcnn
from edgedet.runtime import open_engine

SIZE = (96, 96)
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def graphs():
    torch.manual_seed(0)
    model = FasterRcnn(len(CLASSES), width=16, hidden=32, proposals=16, pretrained=False)
    with torch.no_grad():
        # untrained heads say nothing: all scores alike, and any step of 8 bits would reorder them
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(30)
    return export_graphs(model, make_spec("faster-rcnn", model, CLASSES, size=SIZE))


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(1)
    return [{"images": rng.normal(0, 1, (1, 3, *SIZE)).astype(np.float32)} for _ in range(4)]


@pytest.fixture(scope="module")
def scales(graphs, noise):
    return observe(graphs.core, iter(noise), total=4, data=lambda: "noise")


def coordinates(core: onnx.ModelProto) -> set[str]:
    """What the proposals are computed from, back to convolutions, and with, on to the next ones."""
    maker = {o: n for n in core.graph.node for o in n.output}
    found, ahead = set(), ["proposals"]
    while ahead:
        name = ahead.pop()
        if name in found or name not in maker or maker[name].op_type == "Conv":
            continue
        found.add(name)
        ahead += maker[name].input
    read = {n.input[0] for n in core.graph.node if n.op_type == "Conv"}
    behind = {"proposals"}
    for node in core.graph.node:
        if node.op_type != "Conv" and behind.intersection(node.input):
            behind.update(node.output)
    return found | (behind - read)


def test_coordinates_stay_float(graphs):
    core = graphs.core
    asked = set(quantisable(core))
    box_side = coordinates(core)
    tensors = {t for n in core.graph.node for t in n.input}
    adds = {t for n in core.graph.node if n.op_type in ("Add", "Concat", "ReduceMean") for t in n.input}
    assert len(adds & box_side & tensors) > 20, "operators that are quantised elsewhere work on coordinates"
    assert not asked & box_side
    assert {n.input[0] for n in core.graph.node if n.op_type == "Conv"} <= asked


@pytest.mark.parametrize("target", PLACEMENTS)
def test_every_convolution_is_int8_and_q_stands_behind_the_region_operator(graphs, scales, target):
    done = quantise(graphs.core, scales, PLACEMENTS[target])
    onnx.checker.check_model(done.graph, full_check=True)
    convolutions = [n for n in graphs.core.graph.node if n.op_type == "Conv"]
    assert len(done.int8) == len(convolutions) and done.float == ()
    assert {"box_head.fc6.0", "box_head.fc7.0", "rpn.conv.0"} <= set(done.int8)
    quantised = {n.input[0] for n in done.graph.graph.node if n.op_type == "QuantizeLinear"}
    assert not quantised & coordinates(graphs.core)
    fc6 = next(n for n in done.graph.graph.node if n.name == "box_head.fc6.0")
    assert fc6.input[0].endswith("/dq")
    # what the two matrices of RoIAlign multiply is read as it is
    for node in done.graph.graph.node:
        if node.op_type == "MatMul":
            assert not any(n.endswith("/dq") for n in node.input)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_engines_compute_what_is_written(graphs, scales, noise, target, tmp_path: Path):
    pytest.importorskip(target)
    graph = quantise(graphs.core, scales, PLACEMENTS[target]).graph
    path = tmp_path / "two-stage.onnx"
    path.write_bytes(with_spec(graph, graphs.spec.with_(precision="int8")).SerializeToString())
    float_heads = cpu_session(graphs.core).run(None, noise[0])
    with (
        open_engine(path, engine="onnxruntime", precision="exact") as exact,
        open_engine(path, engine=target) as engine,
    ):
        want, got = exact.infer(noise[0]), engine.infer(noise[0])
    same = matching(want["proposals"][0], got["proposals"][0])
    # one step of an objectness reorders proposals of random weights: not all rows are the same boxes
    assert len(same) >= 5
    a, b = want["class_logits"][0][same[:, 0]], got["class_logits"][0][same[:, 1]]
    # the same box to 2 px, of random weights: what is left is the rounding of one step
    assert np.abs(a - b).mean() < 0.2 * a.std()
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
    near = matching(float_heads[0][0], want["proposals"][0], within=8)
    assert len(near) >= 8, "INT8 proposes what FP32 does"


def matching(a: np.ndarray, b: np.ndarray, within: float = 2.0) -> np.ndarray:
    """(n, 2): the rows of boxes a (P, 4) and b that are the same box to so many pixels."""
    distance = np.abs(a[:, None] - b[None]).max(axis=2)
    there = (a[:, 2] > a[:, 0])[:, None] & (b[:, 2] > b[:, 0])[None]
    rows = [(i, int(j)) for i, j in enumerate(np.where(there, distance, np.inf).argmin(axis=1))]
    return np.array([(i, j) for i, j in rows if there[i, j] and distance[i, j] <= within], int).reshape(-1, 2)


def test_a_calibration_does_not_depend_on_how_regions_are_chosen():
    """The operators and the plain form, with any number of rounds, have the same ranges."""
    found = []
    for operators, rounds in ((False, 24), (False, 9), (True, 24)):
        torch.manual_seed(0)
        model = MaskRcnn(3, width=16, hidden=32, proposals=16, pretrained=False)
        model.operators, model.rounds = operators, rounds
        graphs = export_graphs(model, make_spec("mask-rcnn", model, CLASSES, size=SIZE))
        both = (graphs.core, graphs.stages["masks"])
        found.append([(binding(g), sorted(quantisable(g))) for g in both])
    assert found[0] == found[1] == found[2]
    assert "box_head.fc6.0/regions" in found[0][0][1]
    assert "mask_head.convs.0/regions" in found[0][1][1]


def graph_of(nodes, outputs):
    value = helper.make_tensor_value_info
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 1, 1), np.ones(12))
    again = helper.make_tensor("v", TensorProto.FLOAT, (2, 4, 1, 1), np.ones(8))
    index = helper.make_tensor("i", TensorProto.INT64, (2,), [0, 1])
    axes = helper.make_tensor("to", TensorProto.INT64, (3,), [0, 4, -1])
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [weight, again, index, axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_pooling_that_only_a_region_operator_reads_stays_float():
    n = helper.make_node
    core = graph_of(
        [
            n("Conv", ["images", "w"], ["a"], name="a"),
            n("MaxPool", ["a"], ["table"], kernel_shape=[2, 2]),
            n("Gather", ["table", "i"], ["regions"], axis=0),
            n("Conv", ["regions", "v"], ["b"], name="b"),
        ],
        ["b"],
    )
    assert quantisable(core) == ["images", "regions"]
    assert "table" not in features(core)


def test_a_head_that_is_reshaped_is_no_feature_map_any_more():
    n = helper.make_node
    core = graph_of(
        [
            n("Conv", ["images", "w"], ["a"], name="a"),
            n("Reshape", ["a", "to"], ["rows"]),
            n("Add", ["rows", "rows"], ["moved"]),
            n("Add", ["a", "a"], ["sum"]),
        ],
        ["moved", "sum"],
    )
    assert quantisable(core) == ["images", "a"]
