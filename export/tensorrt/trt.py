"""TensorRT proper (10 and 11, on a PC or a Jetson): the typed ONNX, and the plan where it can be built.

A plan must be built on the device it will run on, so without the library the export ends with the
explicitly typed ONNX and the one command that makes the same plan of it there.
"""

from __future__ import annotations

import importlib.util

import onnx

from edgedet.contract.spec import ModelSpec
from edgedet.export.tensorrt.build import BATCHES, batch_shapes, build


def trtexec(spec: ModelSpec, graph: str, plan: str) -> str:
    """The command that builds the plan on the device."""
    # input:1x3x320x320,proposals:1x500x4 for each batch
    sizes = [
        ",".join(f"{name}:{'x'.join(map(str, shapes[i]))}" for name, shapes in batch_shapes(spec).items())
        for i in range(len(BATCHES))
    ]
    shapes = " ".join(f"--{k}Shapes={s}" for k, s in zip(("min", "opt", "max"), sizes, strict=True))
    return f"trtexec --onnx={graph} --stronglyTyped {shapes} --saveEngine={plan}"


def can_build() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("tensorrt") is not None


def build_tensorrt(graph: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Build a plan for this machine's GPU; errors as `edgedet.export.tensorrt.build.build`."""
    import tensorrt

    return build(tensorrt, graph, spec, {"precision": spec.precision})
