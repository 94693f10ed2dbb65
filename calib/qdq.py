"""Writing INT8 into a graph: explicit QuantizeLinear / DequantizeLinear pairs around float operators.

Every quantised convolution, transposed or not, reads DQ(Q(x)) and DQ(int8 weight): weights are stored as
int8 with one scale per output channel (Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018,
arXiv:1806.08342), biases stay float (int32 biases were measured to gain nothing, and TensorRT refuses
them). A tensor with several consumers has one Q. Nothing after the heads is touched. Where the pairs
stand, which 8-bit type they use and what stays in float is the target's `Placement`; all of them read the
same `Scales`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedet.calib.features import CONVOLUTIONS, OPERATORS
from edgedet.calib.observe import quantisable
from edgedet.calib.scales import Range, Scales
from edgedet.contract.errors import CalibrationError, UsageError


@dataclass(frozen=True)
class Placement:
    """How a target wants its Q/DQ.

    Attributes:
        activations: "int8": signed, symmetric, zero point 0, all that TensorRT takes. "mixed": unsigned
            with zero point 0 where a tensor is never negative (after a ReLU: twice the resolution),
            signed and symmetric elsewhere. "uint8": unsigned with a zero point.
        everywhere: False: before the convolutions, and on the skip of a residual Add that a convolution
            reads too. True: on every tensor that crosses between operators.
        pairs_fit: choose weights so that no two products of one output channel overflow 16 bits together.
            CPUs without INT8 dot products (AVX2 without VNNI) add u8 x s8 products in pairs, saturating at
            32767 without a word; which weights are paired is the kernel's choice. Costs up to one bit.
        half: what is not INT8 will be float16, scales included: choose scales that float16 can hold.
        float_transposed: why transposed convolutions stay in float; empty where they become INT8.
    """

    activations: Literal["int8", "mixed", "uint8"] = "int8"
    everywhere: bool = False
    pairs_fit: bool = False
    half: bool = False
    float_transposed: str = ""


PLACEMENTS: dict[str, Placement] = {
    "tensorrt": Placement(
        "int8", half=True, float_transposed="TensorRT takes no scales per output channel for them"
    ),
    "tensorrt-rtx": Placement("int8", half=True, float_transposed="TensorRT for RTX runs them in float16"),
    "openvino": Placement("mixed", pairs_fit=True),
    "onnxruntime": Placement(
        "uint8", everywhere=True, pairs_fit=True, float_transposed="ONNX Runtime has none in INT8"
    ),
}
"""By target, as measured on a half trained YOLO (decibels of the heads, milliseconds on two cores).

OpenVINO computes signed activations less exactly (26 dB, with unsigned ones 33) and slower; ONNX Runtime
is faster than its FP32 (10 ms to 37) only with unsigned activations quantised everywhere (signed: 60).

`pairs_fit` on the shipped weights in OpenVINO, with and without INT8 dot products: yolo (VOC val, FP32 58.63
AP) 58.75 and 58.75, deeplabv3plus (CamVid test, FP32 61.77 mIoU) 61.57 and 61.57. Before (8 bits, rounded to
the nearest): 58.53 and 55.36, 61.43 and 59.36. Plain 7 bits, to the nearest, had 58.02 and 61.26, pairs that
fit 58.65 and 61.45: 0.8 dB more of the heads, because one weight of a channel may be large.

Transposed convolutions: OpenVINO runs them in INT8. Given the same Q/DQ, ONNX Runtime dequantises before
them, and plans of TensorRT for RTX 1.7 hold them as half x half. TensorRT's kernels took scales per channel
for those of the input, and gave wrong results without a word (NVIDIA/TensorRT issues 1694 and 2380).
"""


FEW = 64
"""Up to so many weights of a channel (depthwise kernels, a first layer's), how well they fall on the steps is
a matter of chance, and the best of several steps is taken. In the shipped networks these layers cost most:
it gives 1 dB of yolo's heads and 2.5 of deeplabv3plus'."""

SHORTEST = 111
"""The steps tried reach from 127 levels for the largest weight (126 for two) down to above this."""


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph (onnx.ModelProto) and which convolutions are INT8 or were left in float, in order.

    unsupported: those in float because the target runs no such in INT8 (`Placement.float_transposed`).
    stages: the graphs that run after NMS, by name.
    """

    graph: Any
    int8: tuple[str, ...]
    float: tuple[str, ...]
    unsupported: tuple[str, ...] = ()
    stages: Mapping[str, Quantised] = field(default_factory=dict)


def quantisable_layers(core: Any, placement: Placement) -> list[str]:
    """Names of the convolutions that a target runs in INT8, in graph order."""
    left = {"ConvTranspose"} if placement.float_transposed else set()
    return [n.name for n in _convolutions(core) if n.op_type not in left]


def _convolutions(core: Any) -> list[Any]:
    """The convolutions whose weights are constants, in graph order."""
    constants = {i.name for i in core.graph.initializer}
    return [n for n in core.graph.node if n.op_type in CONVOLUTIONS and n.input[1] in constants]


def quantise(
    core: Any, scales: Scales, placement: Placement, *, keep_float: Collection[str] = ()
) -> Quantised:
    """A quantised copy of a float core.

    Args:
        core: onnx.ModelProto, image -> heads.
        scales: ranges of this core.
        placement: see `Placement`.
        keep_float: names of convolutions to leave alone; they read and keep float tensors.

    Raises:
        CalibrationError: the scales belong to another graph, or lack a tensor.
        UsageError: `keep_float` names no convolution of this graph.
    """
    scales.check(core, "This calibration")
    layers = [n.name for n in _convolutions(core)]
    supported = quantisable_layers(core, placement)
    unknown = sorted(set(keep_float) - set(layers))
    if unknown:
        raise UsageError(f"No convolution is named {unknown[0]!r}.", hint=f"There are: {', '.join(layers)}.")
    int8 = tuple(n for n in supported if n not in set(keep_float))
    graph = _Writer(core, scales, placement, int8).write()
    unsupported = tuple(n for n in layers if n not in supported)
    return Quantised(graph, int8, tuple(n for n in layers if n not in int8), unsupported)


def activation_type(
    range_: Range, placement: Placement
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]:
    """(scale, zero point) of a range, both scalar arrays; the zero point's dtype is the 8-bit type."""
    kind = placement.activations
    if kind == "uint8" or (kind == "mixed" and range_.low == 0):
        scale = _scales(np.array(range_.high - range_.low), 255, placement)
        return scale, np.array(min(255, round(-range_.low / float(scale))), np.uint8)
    return _scales(np.array(range_.threshold), 127, placement), np.array(0, np.int8)


def quantise_weight(
    weight: npt.NDArray[np.float32], placement: Placement, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights -> int8 of the same shape, and one scale for each index of `axis` (see CONVOLUTIONS).

    With `placement.pairs_fit` the magnitudes a and b of any two weights of one channel have a + b <= 128,
    so that 255 a + 255 b <= 32640: below 32767, the largest sum that 16 bits hold. Proof: the step is the
    sum of the two largest magnitudes / 126 or larger, and `_round` adds less than 1 to each.
    """
    key = np.ascontiguousarray(weight, np.float32)
    values, scale = _quantised(key.tobytes(), key.shape, placement, axis)
    return values.copy(), scale.copy()


@functools.lru_cache(maxsize=256)  # a sensitivity search quantises the same layers once for each of them
def _quantised(
    data: bytes, shape: tuple[int, ...], placement: Placement, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """See `quantise_weight`."""
    weight = np.frombuffer(data, np.float32).reshape(shape)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    largest, levels = np.abs(rows).max(axis=1), 127
    if placement.pairs_fit and rows.shape[1] > 1:
        largest, levels = np.partition(np.abs(rows), -2, axis=1)[:, -2:].sum(axis=1), 126
    scale = _scales(largest, levels, placement)
    stored, error = _stored(rows, scale)
    for fewer in range(levels - 1, SHORTEST, -1) if rows.shape[1] <= FEW else ():
        other = _scales(largest, fewer, placement)
        values, cost = _stored(rows, other)
        better = cost < error
        scale, error = np.where(better, other, scale), np.where(better, cost, error)
        stored[better] = values[better]
    moved = (shape[axis], *np.delete(shape, axis))
    return np.ascontiguousarray(np.moveaxis(stored.reshape(moved), 0, axis)), scale


def _stored(
    rows: npt.NDArray[np.float64], scale: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """(channels, weights) -> int8, and each channel's error: of its weights, and of their sum, squared."""
    steps = scale[:, None].astype(np.float64)
    stored = _round(rows / steps).clip(-127, 127)
    errors = stored * steps - rows
    return stored.astype(np.int8), np.square(errors).sum(axis=1) + np.square(errors.sum(axis=1))


def _round(steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(channels, weights) in steps -> whole numbers, each within 1, whose errors cancel in each channel.

    All are rounded to the nearest, then of those nearest to a half as many go the other way as it takes for
    the sum of a channel's errors to be within 1/2 (Guo et al. 2022, "SQuant", arXiv:2202.07471). After a
    ReLU the inputs of a channel are all positive, and errors that do not cancel shift its output. On the
    shipped yolo this gives 5 dB of the heads, with no picture looked at.
    """
    nearest = np.rint(steps)
    errors = nearest - steps
    excess = np.rint(errors.sum(axis=1, keepdims=True))
    order = np.argsort(-errors * np.sign(excess), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(nearest - np.sign(excess) * (rank < np.abs(excess)))


def _scales(largest: npt.NDArray[Any], levels: int, placement: Placement) -> npt.NDArray[np.float32]:
    """Steps of `levels` up to `largest`; a tensor of zeros has steps of 1 / levels."""
    scale = (np.where(largest > 0, largest, 1.0) / levels).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # below that a step has few digits, or is 0
    if placement.half:
        scale = np.maximum(scale.astype(np.float16), np.finfo(np.float16).smallest_subnormal)
    return np.asarray(scale, np.float32)


class _Writer:
    """One rewrite of one graph."""

    def __init__(self, core: Any, scales: Scales, placement: Placement, int8: Collection[str]) -> None:
        import onnx
        from onnx import helper, numpy_helper

        self.helper, self.numpy = helper, numpy_helper
        self.model = onnx.ModelProto()
        self.model.CopyFrom(core)
        self.graph = self.model.graph
        self.placement = placement
        self.int8 = set(int8)
        self.layers = set(quantisable_layers(core, placement))
        self.constants = {i.name: i for i in self.graph.initializer}
        self.ranges = self._shared(scales)
        self.added: list[Any] = []
        tensors = self._quantised_tensors()
        unseen = [t for t in tensors if t not in self.ranges]
        if unseen:
            raise CalibrationError(
                f"This calibration has no range for {unseen[0]!r}: it was made by an older edgedet.",
                hint="Calibrate again: --calib-data KIND:PATH.",
            )
        self.types = {t: activation_type(self.ranges[t], placement) for t in tensors}

    def write(self) -> Any:
        nodes = list(self._pairs(v.name for v in self.graph.input))
        for node in self.graph.node:
            if node.name in self.int8:
                nodes.append(self._weight(node))
            if self._reads_integers(node):
                node.input[:] = [f"{n}/dq" if n in self.types else n for n in node.input]
            nodes.append(node)
            nodes += self._pairs(node.output)
        copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        used = {name for n in copies for name in n.input}
        tensors = [t for t in (*self.constants.values(), *self.added) if t.name in used]
        kept = [type(t).FromString(t.SerializeToString()) for t in tensors]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        return self.model

    def _quantised_tensors(self) -> dict[str, None]:
        if self.placement.everywhere:
            return dict.fromkeys(t for t in quantisable(self.model) if self._read_in_int8(t))
        return dict.fromkeys(n.input[0] for n in self.graph.node if n.name in self.int8)

    def _read_in_int8(self, tensor: str) -> bool:
        """Whether anything but convolutions left in float reads it."""
        return any(self._reads_integers(n) for n in self.graph.node if tensor in n.input)

    def _reads_integers(self, node: Any) -> bool:
        """Whether it reads DQ where there is one: all operators do, but for convolutions left in float.

        A transposed one that the target never runs in INT8 reads DQ all the same where Q is everywhere:
        ONNX Runtime runs a convolution in INT8 only if there is a Q behind it.
        """
        if node.op_type in CONVOLUTIONS and node.name not in self.int8:
            return self.placement.everywhere and node.name not in self.layers
        return node.op_type in OPERATORS

    def _shared(self, scales: Scales) -> dict[str, Range]:
        """The ranges, with one for all inputs of a Concat or MaxPool and its output.

        Then such an operator only copies bytes.
        """
        ranges = dict(scales.ranges)
        groups = []
        for node in self.graph.node:
            if node.op_type in ("Concat", "MaxPool") and node.output[0] in ranges:
                group = [n for n in (*node.input, node.output[0]) if n in ranges]
                # a ReLU is part of its Q only where that starts at zero, and the Concat then requantises
                if self.placement.activations != "uint8" or len({ranges[n].low < 0 for n in group[:-1]}) == 1:
                    groups.append(group)
        for group in groups * len(groups):  # a group may widen one before it
            union = Range(min(ranges[n].low for n in group), max(ranges[n].high for n in group))
            ranges.update((n, union) for n in group)
        return ranges

    def _pairs(self, tensors: Iterable[str]) -> Iterable[Any]:
        """Q and DQ behind those of `tensors` that are quantised."""
        for name in tensors:
            if name not in self.types:
                continue
            scale, zero = self.types[name]
            parameters = [
                self._constant(f"{name}/scale", scale),
                self._constant(f"{name}/zero", zero),
            ]
            for op, source, target in (
                ("Quantize", name, f"{name}/q"),
                ("Dequantize", f"{name}/q", f"{name}/dq"),
            ):
                yield self.helper.make_node(f"{op}Linear", [source, *parameters], [target], name=target)

    def _weight(self, node: Any) -> Any:
        """Replace a convolution's weight by stored integers; returns their DQ."""
        weight = self.numpy.to_array(self.constants[node.input[1]])
        axis = CONVOLUTIONS[node.op_type]
        values, scale = quantise_weight(weight, self.placement, axis)
        name = f"{node.name}.weight"  # not the constant's: two layers with equal weights share one
        node.input[1] = f"{name}/dq"
        return self.helper.make_node(
            "DequantizeLinear",
            [
                self._constant(f"{name}/q", values),
                self._constant(f"{name}/scale", scale),
                self._constant(f"{name}/zero", np.zeros(scale.shape, np.int8)),
            ],
            [f"{name}/dq"],
            name=f"{name}/dq",
            axis=axis,
        )

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.added.append(self.numpy.from_array(value, name))
        return name
