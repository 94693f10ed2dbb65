"""Float32 to float16, written into the types, as strongly typed TensorRT networks want it.

Requires: a graph in float32, possibly with Q/DQ (whose scales must be representable in float16: see
`edgedet.calib.qdq.Placement.half`). Ensures: the same graph with every float constant in float16, and a
Cast behind each input and before each output, which stay float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedet.contract.errors import ExportError

LARGEST = float(np.finfo(np.float16).max)

# inputs that their operator takes in float32 whatever the data's type: Resize's roi and scales
_FIXED = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 copy; ExportError if a weight is too large for float16."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    fixed = {n.input[i] for n in graph.node for i in _FIXED.get(n.op_type, ()) if i < len(n.input)}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in fixed:
            continue
        value = numpy_helper.to_array(tensor)
        if np.abs(value).max(initial=0) > LARGEST:
            raise ExportError(
                f"{tensor.name} holds {np.abs(value).max():.3g}, more than float16's {LARGEST:.0f}.",
                hint="Export in FP32 or INT8.",
            )
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))

    before, after = [], []
    renamed: dict[str, str] = {}
    for value in graph.input:
        renamed[value.name] = f"{value.name}/half"
        before.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT16))
    for value in graph.output:
        renamed[value.name] = f"{value.name}/half"
        after.append(_cast(renamed[value.name], value.name, TensorProto.FLOAT))
    for node in graph.node:
        node.input[:] = [renamed.get(n, n) for n in node.input]
        node.output[:] = [renamed.get(n, n) for n in node.output]
    nodes = [*before, *(type(n).FromString(n.SerializeToString()) for n in graph.node), *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(out, full_check=True)
    return out


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{source}/cast", to=kind)
