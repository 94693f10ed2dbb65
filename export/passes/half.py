"""Float32 to float16, written into the types, as strongly typed TensorRT networks want it.

Requires: a graph in float32, possibly with Q/DQ (whose scales must be representable in float16: see
`edgedet.calib.qdq.Placement.half`). Ensures: the same graph with every float constant in float16, and a
Cast behind each input and before each output, which stay float32.

A graph that looks at regions keeps coordinates in float32, and what is computed with them: float16 has steps
of a quarter of a pixel from 256 on, and no number for the area of a box of 320 x 320. Feature maps are
float16 there, and the features of regions, sampled from them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgedet.calib.features import CONVOLUTIONS, keeps
from edgedet.contract.errors import ExportError

LARGEST = float(np.finfo(np.float16).max)

# inputs that their operator takes in float32 whatever the data's type: Resize's roi and scales
_FIXED = {"Resize": (1, 2)}

_PAIRS = ("QuantizeLinear", "DequantizeLinear")

_SAMPLING = (
    "MatMul",
    "GatherElements",
    "Reshape",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Concat",
    "Add",
    "Mul",
    "Max",
)
"""What region operators in their plain form do with features. None of them is all that is done to a
coordinate between the convolution that gives it and one that reads what is found there."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 copy; ExportError if a weight is too large for float16."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    real, half = _floats(model), _half_nodes(model)
    fixed = {n.input[i] for n in graph.node for i in _FIXED.get(n.op_type, ()) if i < len(n.input)}
    constants = {t.name: t for t in graph.initializer}
    made = {name for i, n in enumerate(graph.node) if i in half for name in n.output if name in real}
    read = [{t for i, n in enumerate(graph.node) if (i in half) == kind for t in n.input} for kind in (0, 1)]
    in_float, in_half = ({t for t in r if t in real and t not in fixed} for r in read)
    outputs = {v.name for v in graph.output}

    def casts(name: str) -> list[onnx.NodeProto]:
        """Behind what makes a tensor: to the other type, where it is wanted."""
        if name in made and (name in outputs or name in in_float):
            return [_cast(own(name), as_float(name), TensorProto.FLOAT)]
        if name not in made and name in in_half:
            return [_cast(name, in_half_name(name), TensorProto.FLOAT16)]
        return []

    def in_half_name(name: str) -> str:
        """What is made in float32, as float16."""
        alone = name in constants and name not in in_float | fixed
        return name if alone else f"{name}/half"

    def own(name: str) -> str:
        """A tensor as it is made, in float16."""
        return f"{name}/half" if name in outputs else name

    def as_float(name: str) -> str:
        return name if name in outputs else f"{name}/float"

    nodes = [cast for v in graph.input for cast in casts(v.name)]
    for i, node in enumerate(graph.node):
        before = list(node.output)
        if i in half:
            node.input[:] = [
                own(t) if t in made else in_half_name(t) if t in in_half and t not in fixed else t
                for t in node.input
            ]
            node.output[:] = [own(t) if t in made else t for t in node.output]
            for attribute in node.attribute if node.op_type == "Cast" else ():
                attribute.i = TensorProto.FLOAT16 if attribute.i == TensorProto.FLOAT else attribute.i
        else:
            node.input[:] = [as_float(t) if t in made else t for t in node.input]
        nodes += [node, *(cast for t in before for cast in casts(t))]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    tensors = [t for name, t in constants.items() if name not in in_half or name in in_float | fixed]
    tensors += [_half_constant(t, in_half_name(name)) for name, t in constants.items() if name in in_half]
    tensors = [TensorProto.FromString(t.SerializeToString()) for t in tensors]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    onnx.checker.check_model(out, full_check=True)
    return out


def _half_nodes(model: onnx.ModelProto) -> set[int]:
    """The places of the nodes that compute in float16: all, but where a convolution reads regions."""
    graph = model.graph
    real = _floats(model)
    constants = {t.name for t in graph.initializer}
    nodes = [(n, [t for t in n.input if t in real and t not in constants]) for n in graph.node]
    maps = {v.name for v in graph.input if v.name in real and len(v.type.tensor_type.shape.dim) == 4}
    for node, data in nodes:
        passes = node.op_type in _PAIRS and maps.issuperset(t for t in node.input if t not in constants)
        kept = keeps(node) and data and maps.issuperset(data)
        if node.op_type in CONVOLUTIONS or passes or kept:
            maps.update(node.output)
    leading = {n.input[0] for n in graph.node if n.op_type in CONVOLUTIONS} - maps
    if not leading:
        return set(range(len(nodes)))
    sampled = set(maps)
    for node, data in nodes:
        if node.op_type in _SAMPLING and sampled.intersection(data):
            sampled.update(node.output)
    for node, data in reversed(nodes):
        if leading.intersection(node.output):
            if node.op_type in _PAIRS:
                leading.update(node.input[:1])
            elif node.op_type in _SAMPLING:
                leading.update(data)
    half = maps | (sampled & leading)
    return {i for i, (n, _) in enumerate(nodes) if n.op_type in _PAIRS or half.intersection(n.output)}


def _floats(model: onnx.ModelProto) -> set[str]:
    """The tensors in float32, constants among them."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def _half_constant(tensor: TensorProto, name: str) -> TensorProto:
    """A float16 copy under another name; ExportError if it is too large for that."""
    value = numpy_helper.to_array(tensor)
    if np.abs(value).max(initial=0) > LARGEST:
        raise ExportError(
            f"{tensor.name} holds {np.abs(value).max():.3g}, more than float16's {LARGEST:.0f}.",
            hint="Export in FP32 or INT8.",
        )
    return numpy_helper.from_array(value.astype(np.float16), name)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/as_{kind}", to=kind)
