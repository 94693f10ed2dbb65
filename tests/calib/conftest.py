"""A small real network as ONNX: strided and depthwise convolutions, ReLU6, a residual Add, a Concat."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.calib.observe import Feed

SIZE = 24


def make_core(seed: int = 0) -> onnx.ModelProto:
    """images (N, 3, 24, 24) -> grid (N, 5, 12, 12), in the names that the exporter gives."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    nodes = []

    def conv(name, source, inputs, outputs, kernel, *, stride=1, groups=1, target=None):
        shape = (outputs, inputs // groups, kernel, kernel)
        constants[f"{name}.weight"] = (rng.standard_normal(shape) * 1.5 / np.sqrt(np.prod(shape[1:]))).astype(
            np.float32
        )
        constants[f"{name}.bias"] = rng.standard_normal(outputs).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.weight", f"{name}.bias"],
                [target or name],
                name=name,
                strides=[stride, stride],
                pads=[kernel // 2] * 4,
                group=groups,
            )
        )
        return target or name

    def clip(source):
        nodes.append(
            helper.make_node("Clip", [source, "low", "high"], [f"{source}/clip"], name=f"{source}/clip")
        )
        return f"{source}/clip"

    def join(op, sources, **attributes):
        name = f"{sources[0]}/{op.lower()}"
        nodes.append(helper.make_node(op, sources, [name], name=name, **attributes))
        return name

    stem = conv("stem", clip(conv("first", "images", 3, 8, 3, stride=2)), 8, 8, 1)
    wide = clip(conv("wide", stem, 8, 16, 1))
    deep = clip(conv("deep", wide, 16, 16, 3, groups=16))
    block = join("Add", [conv("narrow", deep, 16, 8, 1), stem])
    left, right = clip(conv("left", block, 8, 8, 1)), clip(conv("right", block, 8, 4, 1))
    conv("head", join("Concat", [left, right], axis=1), 12, 5, 1, target="grid")
    graph = helper.make_graph(
        nodes,
        "edgedet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["batch", 5, SIZE // 2, SIZE // 2])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def core() -> onnx.ModelProto:
    return make_core()


@pytest.fixture
def images() -> list[Feed]:
    rng = np.random.default_rng(1)
    return [{"images": rng.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(12)]
