"""TensorRT for RTX, ahead of time: a plan for GPUs that this machine need not have.

The network is strongly typed: what is FP16 or INT8 stands in the ONNX (`passes/half.py`, Q/DQ). The plan
ends at the heads; decode and NMS run after it. The spec is the network's name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx

from edgedet.errors import MissingDependency, TargetError, UsageError
from edgedet.export.plan_text import convolution_types
from edgedet.spec import ModelSpec

SMS = {75: "Turing", 80: "A100", 86: "Ampere", 89: "Ada", 120: "Blackwell", 121: "GB10"}
"""Compute capabilities x 10 that the library can build for. No Jetson (87, 110) is among them."""

NO_INT8 = 75
"""Its INT8 convolutions become float, silently, and so do those of every target named beside it."""

DEFAULT_SMS = (86, 89, 120)
BATCHES = (1, 1, 4)
"""Smallest, best and largest batch of the optimization profile."""


def check_targets(sms: Sequence[int], *, int8: bool) -> None:
    """UsageError for a GPU the library cannot build for, TargetError for one that cannot run INT8."""
    unknown = [s for s in sms if s not in SMS]
    if unknown or not sms:
        known = ", ".join(f"{s} ({name})" for s, name in SMS.items())
        got = f"--sm {unknown[0]}" if unknown else "an empty --sm"
        raise UsageError(f"TensorRT for RTX cannot build for {got}.", hint=f"It knows: {known}.")
    if int8 and NO_INT8 in sms:
        others = ",".join(str(s) for s in sms if s != NO_INT8)
        raise TargetError(
            "SM75 (Turing) gets no INT8 from TensorRT for RTX: any list with it silently turns every INT8"
            " convolution into float, for the other GPUs too.",
            hint=f"Use --sm {others} for INT8" + " and build SM75 with --fp16."
            if others
            else "Use --fp16 for SM75.",
        )


def version() -> str:
    """The library's version; MissingDependency if it is absent."""
    return str(_library().__version__)


def build_plan(
    graph: onnx.ModelProto, spec: ModelSpec, sms: Sequence[int], *, int8: Collection[str] = ()
) -> tuple[bytes, dict[str, tuple[str, str]]]:
    """Build a plan and read its convolutions' types back from it.

    Args:
        graph: image -> heads, explicitly typed, without any custom operator (its parser aborts the
            process on a node that names a plugin).
        spec: of that graph; goes in with the build facts added.
        sms: the GPUs, by compute capability x 10.
        int8: the convolutions that must be INT8 in the plan.

    Returns:
        the plan, and {convolution: (input type, weight type)}.

    Raises:
        TargetError: the library refuses the graph, or the plan's INT8 convolutions are not those expected.
    """
    trt = _library()
    check_targets(sms, int8=bool(int8))
    domains = sorted({n.domain for n in graph.graph.node} - {"", "ai.onnx"})
    if domains:
        raise TargetError(f"The graph has operators of {domains[0]!r}, which TensorRT for RTX cannot take.")
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.SerializeToString()):
        error = parser.get_error(0)
        raise TargetError(f"TensorRT for RTX cannot take {error.node_name()!r}: {error.desc()}.")
    network.name = spec.with_(build=build_facts(spec, sms)).to_json()
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(sms)
    for i, sm in enumerate(sms):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), i)
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.input.name, *[(n, 3, *spec.input.size) for n in BATCHES])
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        reason = next(iter(log.errors), "no reason given")
        raise TargetError(f"TensorRT for RTX cannot build this network: {reason}.")
    plan = bytes(serialized)
    types = convolution_types(plan)
    _check_int8(types, int8)
    return plan, types


def build_facts(spec: ModelSpec, sms: Sequence[int]) -> dict[str, str]:
    """What a preflight compares before it deserializes a plan."""
    return {
        "library": "tensorrt_rtx",
        "version": version(),
        "compute_capabilities": ",".join(str(s) for s in sms),
        "precision": spec.precision,
        "batch": f"{BATCHES[0]}-{BATCHES[2]}",
    }


def _check_int8(types: dict[str, tuple[str, str]], expected: Collection[str]) -> None:
    found = {name for name, kinds in types.items() if kinds == ("int8", "int8")}
    missing = [name for name in expected if name not in found]
    surplus = sorted(found - set(expected))
    if missing or surplus:
        first = (missing or surplus)[0]
        raise TargetError(
            f"The plan has {len(found)} INT8 convolutions, expected {len(expected)}; first that differs:"
            f" {first!r} is {'/'.join(types.get(first, ('absent',)))}.",
            hint="The target silently changed the precision: build with --fp16, or for another --sm.",
        )


def _library() -> Any:
    try:
        import tensorrt_rtx
    except ImportError:
        raise MissingDependency("tensorrt_rtx", extra="rtx", purpose="--target tensorrt-rtx") from None
    return tensorrt_rtx


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors; its warnings are about scales it converts, its infos about itself."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
