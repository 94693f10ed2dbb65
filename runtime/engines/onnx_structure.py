"""Whether an ONNX graph hangs together, before a library gets it that believes it does.

On a graph whose tensors are named twice, or whose nodes lack what they work on, OpenVINO reads and writes
past the end of arrays: the process ends, and no error says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from edgedet.runtime.engines.protobuf import fields, text

# field numbers of onnx.proto
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_DOMAIN = 1, 2, 4, 7
_TENSOR_NAME = 8
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


def problem(f: BinaryIO, end: int) -> str:
    """What is wrong with the graph between here and `end`, in a few words; empty if nothing is.

    Raises what `fields` and `text` raise.
    """
    inputs: list[str] = []
    outputs: list[str] = []
    known: set[str] = set()
    nodes: list[tuple[str, list[str], list[str]]] = []
    for part, _, stop in fields(f, end):
        if stop is None:
            continue
        if part == _NODE:
            nodes.append(_node(f, stop))
        elif part == _INITIALIZER:
            known.update(t for k, t in _texts(f, stop, (_TENSOR_NAME,)))
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
    for op, taken, given in nodes:
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
    if len({*inputs}) < len(inputs) or len({*outputs}) < len(outputs):
        return "two inputs or two outputs have the same name"
    if lost := [n for n in outputs if n not in known]:
        return f"nothing makes its output {lost[0]!r}"
    return ""


def _node(f: BinaryIO, end: int) -> tuple[str, list[str], list[str]]:
    """(operator, inputs, outputs); the operator of another domain with that domain before it."""
    inputs: list[str] = []
    outputs: list[str] = []
    op = domain = ""
    for k, value in _texts(f, end, (_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_DOMAIN)):
        if k == _NODE_INPUT:
            inputs.append(value)
        elif k == _NODE_OUTPUT:
            outputs.append(value)
        elif k == _NODE_OP_TYPE:
            op = value
        else:
            domain = value
    return (op if domain in ("", "ai.onnx") else f"{domain}.{op}"), inputs, outputs


def _texts(f: BinaryIO, end: int, wanted: tuple[int, ...]) -> Iterator[tuple[int, str]]:
    for k, _, e in fields(f, end):
        if k in wanted and e is not None:
            yield k, text(f, e)
