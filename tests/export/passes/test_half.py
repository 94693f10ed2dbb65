from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgedet.contract.errors import ExportError
from edgedet.export.passes.half import to_half


def test_types_and_values(exported):
    core = exported.graphs.core
    half = to_half(core)
    # ONNX wants the factors of a Resize in float32
    factors = {n.input[2] for n in half.graph.node if n.op_type == "Resize"}
    others = [t for t in half.graph.initializer if t.name not in factors]
    assert {t.data_type for t in others} == {TensorProto.FLOAT16}
    kinds = {v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)}
    assert kinds == {TensorProto.FLOAT}
    assert sum(n.op_type == "Cast" for n in half.graph.node) == 2
    assert half.ByteSize() < 0.52 * core.ByteSize()

    images = np.random.default_rng(0).normal(0, 1, (2, 3, *exported.spec.input.size)).astype(np.float32)
    want, got = (
        onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for g in (core, half)
    )
    assert np.abs(want - got).max() < 0.02 * np.abs(want).max()


def test_what_float16_cannot_hold(exported):
    core = onnx.ModelProto()
    core.CopyFrom(exported.graphs.core)
    weight = next(t for t in core.graph.initializer if t.name == "head.3.bias")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"head\.3\.bias holds 1e\+05"):
        to_half(core)
