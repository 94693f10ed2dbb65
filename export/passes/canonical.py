"""Names that say where a tensor comes from and do not depend on the exporter's counters.

Requires: an ONNX graph in topological order. Ensures: the same graph with a node named after the module
its weights belong to, a tensor after the node that makes it, an initializer after its use; no
docstrings, no exporter metadata; initializers in order of use. A calibration cache refers to tensors by
these names, so they must be the same tomorrow and under another version of torch. The features of regions,
which different operators may compute, are named after the convolution that reads them.
"""

from __future__ import annotations

import onnx

from edgedet.calib.features import CONVOLUTIONS, keeps


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """A renamed, stripped copy; graph inputs and outputs keep their names."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    out.producer_name, out.producer_version, out.doc_string = "edgedet", "", ""
    graph.name, graph.doc_string = "edgedet", ""
    del out.metadata_props[:], graph.metadata_props[:], graph.value_info[:], out.functions[:]

    initializers = {i.name: i for i in graph.initializer}
    fixed = {v.name for v in (*graph.input, *graph.output)}
    regions = _regions(graph, initializers)
    renamed: dict[str, str] = {}
    taken = set(fixed)

    def fresh(name: str) -> str:
        candidate, n = name, 1
        while candidate in taken:
            n += 1
            candidate = f"{name}_{n}"
        taken.add(candidate)
        return candidate

    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        node.name = fresh(_node_name(node, initializers, renamed))
        for index, name in enumerate(node.input):
            if name in initializers and name not in renamed:
                role = ("input", "weight", "bias")[index] if node.op_type in CONVOLUTIONS else str(index)
                renamed[name] = fresh(f"{node.name}.{role}")
        for index, name in enumerate(node.output):
            if name and name not in fixed:
                suffix = f".{index}" if len(node.output) > 1 else ""
                # a tensor is called after its node, which already has a name of its own
                plain = node.name if not suffix else fresh(node.name + suffix)
                renamed[name] = fresh(f"{regions[name]}/regions") if name in regions else plain
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.attribute.sort(key=lambda a: a.name)

    used = [initializers[old] for old in renamed if old in initializers]
    for tensor in used:
        tensor.name = renamed[tensor.name]
        tensor.doc_string = ""
    ordered = [onnx.TensorProto.FromString(t.SerializeToString()) for t in used]
    del graph.initializer[:]
    graph.initializer.extend(ordered)
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    return out


def _regions(graph: onnx.GraphProto, initializers: dict[str, onnx.TensorProto]) -> dict[str, str]:
    """Tensors that a convolution reads and no operator on feature maps makes -> that convolution."""
    maker = {name: n for n in graph.node for name in n.output}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in CONVOLUTIONS and node.input[0] in maker:
            before = maker[node.input[0]]
            if before.op_type not in CONVOLUTIONS and not keeps(before):
                found.setdefault(node.input[0], _node_name(node, initializers, {}))
    return found


def _node_name(
    node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto], renamed: dict[str, str]
) -> str:
    """A convolution after its module; anything else after what it follows: `head.0.0/clip`."""
    if node.op_type in CONVOLUTIONS:
        weight = str(node.input[1])
        if weight in initializers and weight.endswith(".weight"):
            return weight.removeprefix("model.").removesuffix(".weight")
    before = next((renamed.get(n, n) for n in node.input if n and n not in initializers), "")
    base = before.split("/")[0]
    return f"{base}/{node.op_type.lower()}" if base else node.op_type.lower()
