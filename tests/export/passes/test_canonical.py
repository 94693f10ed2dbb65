from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedet.export.passes.canonical import canonical


def graph(prefix: str, weight: str) -> onnx.ModelProto:
    """A convolution, an activation and a sum, under arbitrary names."""
    v = [f"{prefix}{i}" for i in range(4)]
    nodes = [
        helper.make_node("Conv", ["images", weight, f"{v[0]}b"], [v[0]], name=v[1], doc_string="x"),
        helper.make_node("Clip", [v[0], f"{v[0]}lo", f"{v[0]}hi"], [v[2]], name=v[2]),
        helper.make_node("Add", [v[2], v[2]], ["out"], name=v[3]),
    ]
    nodes[0].metadata_props.add(key="namespace", value=prefix)
    constants = {
        f"{v[0]}hi": np.array(6, np.float32),
        weight: np.ones((2, 3, 1, 1), np.float32),
        f"{v[0]}lo": np.array(0, np.float32),
        f"{v[0]}b": np.zeros(2, np.float32),
    }
    return helper.make_model(
        helper.make_graph(
            nodes,
            prefix,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 4, 4])],
            [numpy_helper.from_array(a, k) for k, a in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        producer_name=prefix,
    )


def test_names_come_from_the_modules():
    clean = canonical(graph("val_", "model.stem.conv.weight"))
    onnx.checker.check_model(clean, full_check=True)
    assert [n.name for n in clean.graph.node] == ["stem.conv", "stem.conv/clip", "stem.conv/add"]
    assert [list(n.output) for n in clean.graph.node] == [["stem.conv"], ["stem.conv/clip"], ["out"]]
    assert [t.name for t in clean.graph.initializer] == [
        "stem.conv.weight",
        "stem.conv.bias",
        "stem.conv/clip.1",
        "stem.conv/clip.2",
    ]
    assert not clean.graph.node[0].metadata_props
    assert not clean.graph.node[0].doc_string


def test_the_exporters_names_do_not_matter():
    one, other = graph("val_", "model.stem.weight"), graph("n", "model.stem.weight")
    assert canonical(one).SerializeToString() == canonical(other).SerializeToString()


def test_the_given_graph_is_not_touched():
    given = graph("val_", "w")
    before = given.SerializeToString()
    clean = canonical(given)
    assert given.SerializeToString() == before
    assert clean.graph.node[0].name == "images/conv"
