"""What a model can be exported for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from edgedet.contract.errors import MissingDependency, UnknownName


@dataclass(frozen=True)
class Target:
    """Where an artifact will run.

    engine: what runs it here, for the gate and for latency. plan: it becomes a TensorRT plan, in float16
    types beside INT8; `engine` then only computes what the graph says, and its latency is none of the
    target's. suffix: of file names.
    """

    name: str
    engine: str
    plan: bool = False
    suffix: str = ""

    @property
    def judged_in(self) -> str | None:
        """The precision in which `engine` runs what the gate measures; None: as it is deployed.

        A plan's INT8 runs on a GPU, which sums products of integers exactly. The INT8 kernels of the CPU
        that happens to export it say nothing of that: some saturate, and a plan's 8 bit weights are not
        chosen to spare them (`Placement.pairs_fit`).
        """
        return "exact" if self.plan else None


TARGETS = {
    t.name: t
    for t in (
        Target("openvino", "openvino"),
        Target("onnxruntime", "onnxruntime"),
        Target("tensorrt-rtx", "onnxruntime", plan=True, suffix="-rtx"),
        Target("tensorrt", "onnxruntime", plan=True, suffix="-tensorrt"),
    )
}


def find_target(name: str) -> Target:
    """A target by name; "auto" is OpenVINO where it is installed, else ONNX Runtime.

    Raises:
        UnknownName: no such target. MissingDependency: the engine to check it with is not installed.
    """
    if name == "auto":
        name = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    if name not in TARGETS:
        raise UnknownName("target", name, ["auto", *TARGETS])
    target = TARGETS[name]
    if importlib.util.find_spec(target.engine) is None:
        raise MissingDependency(target.engine, extra="export", purpose=f"--target {name}")
    return target
