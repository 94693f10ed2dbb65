"""Pixels in, as a decoder and OpenCV have them: the graph normalises.

Requires: a graph, quantised and joined with decode or not, whose image is float32 (N, 3, H, W), normalised.
Ensures: the same graph behind five nodes that take uint8 (N, H, W, 3) in BGR and give that image. On a CPU
this costs less than splitting channels and looking values up beforehand: OpenVINO reads the bytes with
its first layer, ONNX Runtime quantises in the same pass.

It is put before a finished graph, as decode is put behind one: what is calibrated and quantised is the core,
whose tensors, ranges and names stay as they were. The mean is not folded into the first convolution: around
the image that pads with zeros, which are zeros after the normalisation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedet.contract.errors import ExportError
from edgedet.contract.spec import ModelSpec


def from_pixels(model: onnx.ModelProto, spec: ModelSpec) -> tuple[onnx.ModelProto, ModelSpec]:
    """A copy that takes pixels, and its spec.

    Raises ExportError: the image is not float32 (N, 3, H, W).
    """
    image = spec.input
    if (image.dtype, image.layout) != ("float32", "NCHW"):
        raise ExportError(f"{image.name!r} is {image.dtype} {image.layout} already, expected float32 NCHW.")
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    value = next(v for v in graph.input if v.name == image.name)
    batch = value.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value or None, image.height, image.width, 3]

    nodes: list[onnx.NodeProto] = []

    def then(source: str, op: str, name: str, constant: npt.NDArray[Any] | None = None, **kw: Any) -> str:
        inputs = [source]
        name = f"{image.name}/{name}"
        if constant is not None:
            graph.initializer.append(numpy_helper.from_array(constant, f"{name}/1"))
            inputs.append(f"{name}/1")
        nodes.append(helper.make_node(op, inputs, [name], name=name, **kw))
        return name

    # bytes are moved before they grow to floats; this order was the fastest on both engines
    last = then(image.name, "Transpose", "planar", perm=[0, 3, 1, 2])
    mean, std = np.array(image.mean), np.array(image.std)
    if image.colour == "RGB":
        last = then(last, "Gather", "rgb", np.array([2, 1, 0]), axis=1)
    last = then(last, "Cast", "float", to=TensorProto.FLOAT)
    last = then(last, "Mul", "scaled", (1 / (255 * std)).astype(np.float32).reshape(1, 3, 1, 1))
    last = then(last, "Add", "normalised", (-mean / std).astype(np.float32).reshape(1, 3, 1, 1))

    for node in graph.node:
        node.input[:] = [last if name == image.name else name for name in node.input]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    value.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.UINT8, shape))
    onnx.checker.check_model(out, full_check=True)

    changed = replace(image, dtype="uint8", layout="NHWC", colour="BGR")
    if image.colour == "RGB":
        changed = replace(changed, mean=image.mean[::-1], std=image.std[::-1])
    return out, spec.with_(input=changed)
