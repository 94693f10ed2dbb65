"""Which tensors of a graph are feature maps: the only ones that a quantiser may touch.

A detector's graph also computes with coordinates: anchors, deltas, proposals, what the region operators
sample by. They reach over hundreds of pixels and mean fractions of one: 8 bits give steps of several pixels.
Many of the operators are the same (Add, Concat, Clip, ReduceMean), so that names do not tell them apart.
Reachability does:

- forwards: an image-like input (four axes) is a feature map, and so is what a convolution gives. What comes
  of feature maps alone by operators of POINTWISE and POOLINGS is one too. Anything else ends it: a head's
  Reshape before decoding, the MatMuls, Gathers or RoiAlign of a region operator. The convolution that reads
  the regions' features begins anew, and its input is quantised: Q stands behind a region operator.
- backwards: it must lead to a convolution or to an output of the graph by the same operators. What leads to
  a region operator alone (the table of MaxPools of RoI max pooling) stays float: before it, 8 bits only add
  an error, since what is sampled is rounded again behind it.
"""

from __future__ import annotations

from typing import Any

CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}
"""What has weights to quantise, and the axis of the weights that counts output channels: (out, in/groups,
kh, kw) and (in, out/groups, kh, kw)."""

POOLINGS = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")

OPERATORS = (*CONVOLUTIONS, *POOLINGS, "Add", "Concat", "Resize", "Expand")
"""What engines run on 8-bit inputs. Activations (Clip, Relu) are not among them: they are fused into the
convolution before them, so there is no tensor between the two."""

ACTIVATIONS = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Mish",
)

POINTWISE = (
    *ACTIVATIONS,
    "Add",
    "Mul",
    "Concat",
    "Resize",
    "Expand",
    "DepthToSpace",
    "Pad",
    "Identity",
    "Cast",
)
"""Operators that make feature maps of feature maps, beside POOLINGS."""


def features(core: Any) -> set[str]:
    """Names of the tensors of an onnx.ModelProto that are feature maps, as the module defines them.

    Only floating point: a graph with a free batch computes sizes too, with a Shape and a Concat of numbers.
    """
    both, read = _reach(core)
    # what a convolution reads is quantised, wherever it comes from
    return both | read


def feature_nodes(core: Any) -> list[Any]:
    """The convolutions and what makes feature maps of feature maps: what a calibration depends on.

    How regions are chosen, and by which operators their features are computed, is not among it.
    """
    both, _ = _reach(core)
    return [
        n for n in core.graph.node if n.op_type in CONVOLUTIONS or (keeps(n) and both.intersection(n.output))
    ]


def _reach(core: Any) -> tuple[set[str], set[str]]:
    """What is reached forwards and backwards, and what convolutions read."""
    constants = {i.name for i in core.graph.initializer}
    real = _floats(core)
    nodes = [(n, [t for t in n.input if t in real - constants]) for n in core.graph.node]
    found = {v.name for v in core.graph.input if v.name in real and len(v.type.tensor_type.shape.dim) == 4}
    for node, data in nodes:
        if node.op_type in CONVOLUTIONS or (keeps(node) and data and found.issuperset(data)):
            found.update(t for t in node.output if t in real)
    leading = {v.name for v in core.graph.output}
    for node, data in reversed(nodes):
        if node.op_type in CONVOLUTIONS:
            leading.add(node.input[0])
        elif keeps(node) and leading.intersection(node.output):
            leading.update(data)
    read = {n.input[0] for n in core.graph.node if n.op_type in CONVOLUTIONS}
    return found & leading, read & (real - constants)


def keeps(node: Any) -> bool:
    """Whether it makes feature maps of feature maps."""
    return node.op_type in POINTWISE or node.op_type in POOLINGS


def _floats(core: Any) -> set[str]:
    """The tensors of a floating point type."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(core).graph
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return {
        v.name
        for v in (*graph.input, *graph.value_info, *graph.output)
        if v.type.tensor_type.elem_type in kinds
    }
