from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.export.passes.static_resize import static_resize


def graph(height: int, width: int, to: tuple[int, int]) -> onnx.ModelProto:
    """Resize to computed sizes, as torch's exporter writes it where the batch is free."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], start=0, end=2),
        helper.make_node("Concat", ["shape", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["images", "", "", "sizes"], ["out"], mode="linear"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 2, height, width])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 2, *to])
    size = numpy_helper.from_array(np.array(to, np.int64), "size")
    return helper.make_model(
        helper.make_graph(nodes, "g", [image], [out], [size]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.mark.parametrize("to", [(12, 20), (24, 15), (6, 10), (3, 80)])
def test_nothing_but_a_resize_is_left(to):
    given = graph(6, 10, to)
    done = static_resize(given)
    onnx.checker.check_model(done, full_check=True)
    assert [n.op_type for n in done.graph.node] == ["Resize"]
    assert [n.op_type for n in given.graph.node] == ["Shape", "Concat", "Resize"], "a copy was changed"
    images = np.random.default_rng(0).random((3, 2, 6, 10), np.float32)
    np.testing.assert_allclose(run(done, images), run(given, images), atol=1e-6)


def test_a_factor_that_float32_cannot_hold_stays():
    given = graph(6, 10, (7, 20))
    assert static_resize(given).SerializeToString() == given.SerializeToString()
