"""Resizes by constant factors, where the exporter computes sizes with a free batch in them.

Requires: an ONNX graph whose Resize nodes take `sizes` = Concat(Shape(x)[:2], constant (height, width)).
Ensures: the same graph with those Resize taking constant `scales`, and no node left that only computed
sizes. A Shape is one more reader of its tensor: it kept ONNX Runtime from fusing Q into the convolution
before it. A Resize of another form, or whose factor float32 cannot hold exactly, stays as it is: engines
round size x scale down.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference


def static_resize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with constant scales."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    typed = shape_inference.infer_shapes(model).graph
    values = {v.name: v for v in (*typed.value_info, *typed.input)}
    maker = {name: n for n in graph.node for name in n.output}
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        sizes = _sizes(node, maker, constants)
        dims = values[node.input[0]].type.tensor_type.shape.dim if node.input[0] in values else []
        known = [d.dim_value for d in dims][2:]
        if sizes is None or len(known) != 2 or 0 in known:
            continue
        scales = np.array([1, 1, *(s / k for s, k in zip(sizes, known, strict=True))], np.float32)
        if any(k * float(f) != s for k, f, s in zip(known, scales[2:], sizes, strict=True)):
            continue
        name = f"{node.output[0]}/scales"
        graph.initializer.append(numpy_helper.from_array(scales, name))
        node.input[:] = [node.input[0], "", name]
    _prune(graph)
    return out


def _sizes(
    node: onnx.NodeProto, maker: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> list[int] | None:
    """(height, width) that a Resize asks for, None where it is not of the form above."""
    if node.op_type != "Resize" or len(node.input) < 4:
        return None
    joined = maker.get(node.input[3])
    if joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
        return None
    shape, size = maker.get(joined.input[0]), constants.get(joined.input[1])
    if shape is None or shape.op_type != "Shape" or size is None:
        return None
    span = {a.name: a.i for a in shape.attribute}
    if shape.input[0] != node.input[0] or span.get("start", 0) != 0 or span.get("end") != 2:
        return None
    return [int(v) for v in numpy_helper.to_array(size)]


def _prune(graph: onnx.GraphProto) -> None:
    """Drop Shape and Concat nodes that nothing reads."""
    wanted = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if node.op_type in ("Shape", "Concat") and not wanted.intersection(node.output):
            continue
        wanted.update(node.input)
        kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(reversed(kept))
