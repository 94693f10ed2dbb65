"""Whether an ONNX graph hangs together and stays in bounds, before a library gets it that believes it does.

On a graph whose tensors are named twice, or whose nodes lack what they work on, OpenVINO reads and writes
past the end of arrays: the process ends, and no error says why.
"""

from __future__ import annotations

from typing import BinaryIO, TypeAlias

from edgedet.runtime.engines.onnx_constants import Constants
from edgedet.runtime.engines.protobuf import fields, text

# field numbers of onnx.proto
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_VALUE_NAME, _VALUE_TYPE = 1, 2

_LEAST = {
    **dict.fromkeys(("Constant", "RandomNormal", "RandomUniform"), 0),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Equal", "Greater", "Less", "And", "Or"), 2),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "MatMul", "Gemm", "PRelu"), 2),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "LayerNormalization", "NonMaxSuppression"), 2),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Gather", "GatherND", "GatherElements", "GridSample"), 2),
    **dict.fromkeys(("Where", "Range", "ScatterND", "ScatterElements", "InstanceNormalization"), 3),
    **dict.fromkeys(("GroupNormalization",), 3),
    "BatchNormalization": 5,
    "QLinearConv": 8,
}
"""Operator -> how many inputs it needs at least; 1 for those not named."""

_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""Operators with graphs inside. Nothing bounds how long a loop runs, and no engine can be stopped in one."""

Node: TypeAlias = tuple[str, list[str], list[str], list[tuple[int, int]]]
"""(operator, inputs, outputs, where the bytes of its attributes begin and end)."""


def problem(f: BinaryIO, end: int) -> str:
    """What is wrong with the graph between here and `end`, in a few words; empty if nothing is.

    Raises what `fields` and `text` raise.
    """
    inputs: list[str] = []
    outputs: list[str] = []
    known: set[str] = set()
    constants = Constants()
    nodes: list[Node] = []
    for part, _, stop in fields(f, end):
        if stop is None:
            continue
        if part == _NODE:
            nodes.append(_node(f, stop))
        elif part == _INITIALIZER:
            name, why = constants.stored(f, stop)
            if why:
                return why
            known.add(name)
        elif part in (_INPUT, _OUTPUT):
            name, typed = "", False
            for k, _, e in fields(f, stop):
                if k == _VALUE_NAME and e is not None:
                    name = text(f, e)
                typed = typed or k == _VALUE_TYPE
            if not (name and typed):
                return "an input or output has no name or no type"
            (inputs if part == _INPUT else outputs).append(name)
        elif part == _SPARSE:
            return "it holds sparse tensors, which edgedet does not write"
    known.update(inputs)
    for op, taken, given, attributes in nodes:
        if op in _CONTROL:
            return f"a node {op!r} holds a graph of its own, which edgedet neither writes nor runs"
        needed = _LEAST.get(op, 1)
        if len(taken) < needed or not all(taken[:needed]):
            return f"a node {op!r} lacks one of its {needed} inputs"
        if unknown := [n for n in taken if n and n not in known]:
            return f"a node {op!r} takes {unknown[0]!r}, which nothing before it makes"
        if not any(given) or any(n in known for n in given if n):
            return f"a node {op!r} makes nothing, or what was there before"
        known.update(n for n in given if n)
        why = (
            constants.constant(f, attributes, given) if op == "Constant" else constants.node(op, taken, given)
        )
        if why:
            return why
    if len({*inputs}) < len(inputs) or len({*outputs}) < len(outputs):
        return "two inputs or two outputs have the same name"
    if lost := [n for n in outputs if n not in known]:
        return f"nothing makes its output {lost[0]!r}"
    return ""


def _node(f: BinaryIO, end: int) -> Node:
    """The operator of another domain has that domain before it."""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: list[tuple[int, int]] = []
    op = domain = ""
    for k, _, stop in fields(f, end):
        if stop is None:
            continue
        if k == _NODE_ATTRIBUTE:
            attributes.append((f.tell(), stop))
        elif k == _NODE_INPUT:
            inputs.append(text(f, stop))
        elif k == _NODE_OUTPUT:
            outputs.append(text(f, stop))
        elif k == _NODE_OP_TYPE:
            op = text(f, stop)
        elif k == _NODE_DOMAIN:
            domain = text(f, stop)
    return (op if domain in ("", "ai.onnx") else f"{domain}.{op}"), inputs, outputs, attributes
