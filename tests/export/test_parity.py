"""Two-stage models are compared region by region: rows may change places, what they say may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgedet.contract.errors import ParityError
from edgedet.export.graph import Graphs, export_graphs
from edgedet.export.parity import compare
from edgedet.models import make_spec
from edgedet.models.faster_rcnn import FasterRcnn

P = 64


@pytest.fixture(scope="module")
def made() -> tuple[FasterRcnn, Graphs]:
    torch.manual_seed(0)
    model = FasterRcnn(3, width=16, hidden=32, proposals=P, pretrained=False).eval()
    with torch.no_grad():  # untrained heads say nothing: all scores alike
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(30)
    return model, export_graphs(model, make_spec("faster-rcnn", model, ("a", "b", "c"), size=(96, 96)))


def changed(graph: onnx.ModelProto, name: str, op: str, constant: Any, **attributes: Any) -> onnx.ModelProto:
    """A copy whose tensor `name` has passed one more operator."""
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in out.graph.node]
    at = next(i for i, n in enumerate(nodes) if name in n.output)
    nodes[at].output[:] = [f"{name}/before" if n == name else n for n in nodes[at].output]
    out.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), f"{name}/constant"))
    more = helper.make_node(op, [f"{name}/before", f"{name}/constant"], [name], **attributes)
    del out.graph.node[:]
    out.graph.node.extend([*nodes[: at + 1], more, *nodes[at + 1 :]])
    return out


def at_row(row: int, width: int, value: float) -> np.ndarray:
    """(1, P, width) of zeros but for one row."""
    found = np.zeros((1, P, width), np.float32)
    found[0, row] = value
    return found


def test_rows_that_changed_places_are_the_same_regions(made: tuple[FasterRcnn, Graphs]) -> None:
    model, graphs = made
    plain = compare(model, graphs.spec, graphs.decoded())
    order = np.arange(P)
    order[[3, 4, 10, 40]] = order[[4, 3, 40, 10]]
    graph = graphs.decoded()
    for name in ("proposals", "objectness"):  # what is computed of the proposals follows them
        graph = changed(graph, name, "Gather", order, axis=1)
    found = compare(model, graphs.spec, graph)
    assert found == plain
    assert found.unpaired == 0
    assert found.results["boxes"] < 1e-2


def test_what_a_region_says_must_be_the_same(made: tuple[FasterRcnn, Graphs]) -> None:
    model, graphs = made
    for name, width in (("class_logits", 4), ("deltas", 12)):
        with pytest.raises(ParityError, match=f"head '{name}' differs .* by 0.1"):
            compare(model, graphs.spec, changed(graphs.decoded(), name, "Add", at_row(2, width, 0.1)))
    swapped = np.arange(P)
    swapped[[0, 1]] = swapped[[1, 0]]
    with pytest.raises(ParityError, match="head 'class_logits'"):  # another region's
        compare(model, graphs.spec, changed(graphs.decoded(), "class_logits", "Gather", swapped, axis=1))


def test_few_regions_may_be_others_and_it_is_said(made: tuple[FasterRcnn, Graphs]) -> None:
    model, graphs = made
    one = changed(graphs.decoded(), "proposals", "Add", at_row(5, 4, 1.0))
    found = compare(model, graphs.spec, one)
    assert found.unpaired == pytest.approx(1 / P)  # that row in both images
    assert str(found).endswith("; 1.6 % of the regions are others")
    two = changed(one, "proposals/before", "Add", at_row(9, 4, 1.0))
    with pytest.raises(ParityError, match=r"3\.1 % of the exported graph's regions are others"):
        compare(model, graphs.spec, two)
