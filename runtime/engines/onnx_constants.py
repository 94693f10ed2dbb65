"""How large an ONNX graph's constants become, before an engine folds them: bounds, nothing is allocated.

Engines compute at load what depends on no input. A file of a few hundred bytes can so ask for any amount of
memory (`ConstantOfShape` of 10^6 x 10^6, a `Tile` of it), and the process is ended without an error. So the
size of each node that works on constants alone is bounded here from their shapes; what edgedet does not write
and cannot be bounded is refused.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from edgedet.contract.spec_check import MAX_ELEMENTS
from edgedet.runtime.engines.protobuf import fields, text, varints

# field numbers of onnx.proto
_DIMS, _DATA_TYPE, _FLOATS, _INT32, _INT64, _NAME, _RAW, _DOUBLES = 1, 2, 4, 5, 7, 8, 9, 10
_FLOAT, _INT, _STRING, _TENSOR, _FLOAT_LIST, _INT_LIST, _STRING_LIST = 2, 3, 4, 5, 7, 8, 9  # of an attribute

_RAW_TYPES = {1: "<f4", 6: "<i4", 7: "<i8", 11: "<f8"}
"""TensorProto.DataType -> how numpy reads it, of those that sizes come in."""

_MOST_VALUES = 64
"""Values of a tensor that is read: it may be a shape. No tensor has as many dimensions."""

_ENDLESS = 1e200
"""More than any size that is allowed."""

_A_BYTE = 4
"""Values that a byte can hold: those of 2 bits."""

_RULES = {
    **dict.fromkeys(
        ("Abs", "Cast", "Ceil", "Clip", "CumSum", "Exp", "Floor", "Identity", "Log", "Neg"), "same"
    ),
    **dict.fromkeys(
        ("Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softmax", "Sqrt", "Tanh"), "same"
    ),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear", "ScatterElements", "ScatterND", "Trilu"), "same"),
    **dict.fromkeys(("Cos", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "IsNaN", "LeakyRelu"), "same"),
    **dict.fromkeys(("LogSoftmax", "Mish", "PRelu", "Selu", "Sin", "Softplus", "Tan"), "same"),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), "same"),
    **dict.fromkeys(("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean"), "no larger"),
    **dict.fromkeys(("ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Flatten", "Squeeze"), "no larger"),
    **dict.fromkeys(("Unsqueeze", "Transpose", "Slice", "Split", "TopK"), "no larger"),
    **dict.fromkeys(("DepthToSpace", "ReduceL2", "ReduceSumSquare", "Size", "SpaceToDepth"), "no larger"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Where"), "broadcast"),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), "broadcast"),
    **dict.fromkeys(("And", "Or", "Xor", "Mean", "Sum"), "broadcast"),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "MatMul", "Gemm", "Einsum"), "product"),
    "Concat": "sum",
}
"""What an operator makes of constants: of the shape of its first input; each tensor no larger than that; of
the shape to which all broadcast; no larger than the product or the sum of their sizes."""

_SIZED = {"ConstantOfShape": 0, "Expand": 1, "OneHot": 1, "Pad": 1, "Resize": 3, "Tile": 1}
"""Operators that make as much as one of their inputs says: which."""


@dataclass(frozen=True)
class Known:
    """A constant: how many values it has at most, its shape and its values where they are known."""

    size: int
    shape: tuple[int, ...] | None = None
    values: tuple[float, ...] | None = None


class Constants:
    """The tensors of a graph that depend on no input, as far as its nodes were seen."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._made = 0

    def stored(self, f: BinaryIO, end: int) -> tuple[str, str]:
        """Read the tensor between here and `end` (TensorProto); its name, and what is wrong with it."""
        name, found, problem = _tensor(f, end)
        self._known[name] = found
        return name, problem

    def constant(self, f: BinaryIO, attributes: Sequence[tuple[int, int]], outputs: Sequence[str]) -> str:
        """Read a Constant node, whose attributes lie at (start, end); what is wrong with it."""
        for start, end in attributes:
            f.seek(start)
            ints: list[float] = []
            for field, value, stop in fields(f, end):
                found = None
                if field == _TENSOR and stop is not None:
                    _, found, problem = _tensor(f, stop)
                    if problem:
                        return problem
                elif field == _INT_LIST and stop is None:
                    ints.append(float(_signed(value)))
                    found = Known(len(ints), (len(ints),), tuple(ints) if len(ints) <= _MOST_VALUES else None)
                elif field == _INT:
                    found = Known(1, (), (float(_signed(value)),))
                elif field in (_FLOAT, _STRING, _FLOAT_LIST, _INT_LIST, _STRING_LIST):
                    found = Known(end - start)  # each value has a byte or more
                if found is not None:
                    self._known.update(dict.fromkeys(outputs, found))
        return "" if all(name in self._known for name in outputs) else "a Constant holds no tensor"

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """What is wrong with a node, as far as constants go; its outputs are known from now on."""
        given = [self._known.get(name) if name else Known(0, (0,), ()) for name in inputs]
        constants = [g for g in given if g is not None]
        if len(constants) < len(given):
            return _of_one(op, given)
        found = _result(op, constants)
        if found is None:
            return f"a node {op!r} works on constants alone, which edgedet does not write"
        self._made += found.size * len(outputs)
        if self._made > MAX_ELEMENTS:
            return (
                f"its constants become {_count(self._made)} values in a node {op!r}, at most {MAX_ELEMENTS}"
            )
        self._known.update(dict.fromkeys((n for n in outputs if n), found))
        return ""


def _of_one(op: str, given: Sequence[Known | None]) -> str:
    """What is wrong with a node that works on an image, if constants make it as large as it is."""
    found = [g.values for g in given[1:] if g is not None and g.values]
    if op not in ("Expand", "Pad", "Resize", "Tile") or not found:
        return ""
    values = found[-1 if op == "Resize" else 0]
    if op == "Pad":  # before and after, of each axis
        half = len(values) // 2
        values = tuple(1 + max(0, a) + max(0, b) for a, b in zip(values, values[half:], strict=False))
    made = math.prod(max(1.0, v) for v in values)
    if made <= MAX_ELEMENTS:
        return ""
    return f"a node {op!r} makes {_count(made)} values of one, at most {MAX_ELEMENTS}"


def _result(op: str, given: list[Known]) -> Known | None:
    """What a node makes of constants; None: it is no operator that can be bounded."""
    rule = _RULES.get(op)
    if (found := _followed(op, given)) is not None:
        return found
    if rule in ("same", "no larger") and given:
        return Known(given[0].size, given[0].shape if rule == "same" else None)
    if rule == "broadcast" and given:
        return _broadcast([g.shape for g in given], given)
    if rule in ("sum", "product"):
        return Known((sum if rule == "sum" else math.prod)(g.size for g in given))
    if op == "Shape":
        shape = given[0].shape if given else None
        return Known(_MOST_VALUES) if shape is None else Known(len(shape), (len(shape),), shape)
    if op == "Range" and len(given) == 3:
        start, stop, step = (g.values[0] if g.values else math.nan for g in given)
        steps = (stop - start) / step if step else math.nan
        return Known(max(0, math.ceil(steps))) if math.isfinite(steps) else None
    return _sized(op, given)


def _followed(op: str, given: list[Known]) -> Known | None:
    """What is exactly known of an operator with which exporters compute sizes; None where it is not."""
    shapes = [g.shape for g in given if g.shape is not None]
    values = [g.values for g in given if g.values is not None]
    if len(shapes) < len(given) or not given:
        return None
    if op == "Concat" and all(len(shape) == 1 for shape in shapes):
        size = sum(g.size for g in given)
        every = len(values) == len(given) and size <= _MOST_VALUES
        return Known(size, (size,), sum(values, ()) if every else None)
    if len(given) != 2:
        return None
    first, second = given
    if op == "Unsqueeze" and second.values and all(map(math.isfinite, second.values)):
        shape = list(shapes[0])
        rank = len(shape) + len(second.values)
        for axis in sorted(int(v) % rank for v in second.values):
            shape.insert(axis, 1)
        return Known(first.size, tuple(shape), first.values)
    if first.values is None or second.values is None:
        return None
    if op == "Gather" and len(shapes[0]) == 1:
        count = len(first.values)
        if all(-count <= v < count for v in second.values):
            return Known(second.size, shapes[1], tuple(first.values[int(v)] for v in second.values))
    if op in _ARITHMETIC and max(map(len, shapes)) <= 1:
        longest = max(map(len, values))
        a, b = (v * longest if len(v) == 1 else v for v in values)
        if len(a) == len(b) and longest <= _MOST_VALUES:
            made = tuple(_ARITHMETIC[op](x, y) for x, y in zip(a, b, strict=True))
            exact = all(abs(v) <= _EXACT for v in (*a, *b, *made))
            return Known(longest, max(shapes, key=len), made) if exact else None
    return None


_ARITHMETIC = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul}

_EXACT = 2.0**53
"""Whole numbers up to here are exact in float64."""


def _sized(op: str, given: list[Known]) -> Known | None:
    """What an operator of `_SIZED` makes of constants."""
    where = _SIZED.get(op)
    if where is None:
        return None
    if op == "Resize" and (len(given) <= 3 or not given[3].values):
        where = 2
    values = given[where].values if where < len(given) else None
    if values is None or not all(map(math.isfinite, values)):
        return None
    data = given[0]
    if op == "ConstantOfShape" or (op == "Resize" and where == 3):
        return Known(math.prod(max(0, int(v)) for v in values))
    if op == "Expand":
        wanted = tuple(int(v) for v in values)
        return _broadcast([data.shape, wanted], [data, Known(math.prod(map(abs, wanted)))])
    if op == "Pad" and data.shape is not None and len(values) == 2 * len(data.shape):
        more = zip(data.shape, values, values[len(data.shape) :], strict=False)
        return Known(math.prod(max(0, n + int(before) + int(after)) for n, before, after in more))
    if op in ("Tile", "Resize", "OneHot"):  # so many values of each
        return Known(math.ceil(data.size * min(math.prod(max(0.0, v) for v in values), _ENDLESS)))
    return None


def _broadcast(shapes: Sequence[tuple[int, ...] | None], given: Sequence[Known]) -> Known:
    if any(shape is None for shape in shapes):
        return Known(math.prod(g.size for g in given))
    rank = max(len(shape) for shape in shapes if shape is not None)
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes if shape is not None]
    # an engine refuses those that do not fit; until then the larger counts
    shape = tuple(max(sides) for sides in zip(*aligned, strict=True))
    return Known(math.prod(shape), shape)


def _tensor(f: BinaryIO, end: int) -> tuple[str, Known, str]:
    """(name, what it is, what is wrong with it) of the TensorProto between here and `end`."""
    begin, name, kind = f.tell(), "", 0
    dims: list[int] = []
    parts: dict[int, tuple[int, int]] = {}
    for field, value, stop in fields(f, end):
        if field == _DIMS:
            dims += [value] if stop is None else varints(f, stop)
        elif field == _DATA_TYPE:
            kind = value
        elif field == _NAME and stop is not None:
            name = text(f, stop)
        elif field in (_FLOATS, _INT32, _INT64, _RAW, _DOUBLES) and stop is not None:
            parts[field] = (f.tell(), stop)
    if len(dims) > _MOST_VALUES:
        return name, Known(0), f"the tensor {name!r} has {len(dims)} dimensions"
    size = math.prod(dims)
    if size > _A_BYTE * (end - begin) or any(_signed(n) < 0 for n in dims):
        return name, Known(size), f"the tensor {name!r} has fewer bytes than values ({_count(size)})"
    values = _values(f, kind, parts) if size <= _MOST_VALUES and len(parts) == 1 else None
    if size == 0:
        values = ()
    return name, Known(size, tuple(dims), values if values is not None and len(values) == size else None), ""


def _values(f: BinaryIO, kind: int, parts: dict[int, tuple[int, int]]) -> tuple[float, ...] | None:
    """The numbers of a small tensor, of the types that sizes come in."""
    ((field, (start, end)),) = parts.items()
    f.seek(start)
    if field in (_INT32, _INT64):
        return tuple(float(_signed(n)) for n in varints(f, end))
    dtype = {_FLOATS: "<f4", _DOUBLES: "<f8"}.get(field) or _RAW_TYPES.get(kind)
    data = f.read(end - start)
    if dtype is None or len(data) % np.dtype(dtype).itemsize:
        return None
    return tuple(float(v) for v in np.frombuffer(data, dtype))


def _signed(value: int) -> int:
    """A varint as a number of 64 bits with a sign."""
    return int(struct.unpack("<q", struct.pack("<Q", value & (1 << 64) - 1))[0])


def _count(n: float) -> str:
    """A number of values, as short as it reads."""
    return str(int(n)) if n < 1 << 40 else f"{n:.2g}" if n < 1e300 else "more than 1e300"
