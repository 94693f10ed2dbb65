"""TensorRT for RTX, ahead of time: a plan for GPUs that this machine need not have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx

from edgedet.contract.errors import MissingDependency, TargetError, UsageError
from edgedet.contract.spec import ModelSpec
from edgedet.export.tensorrt.build import build
from edgedet.export.tensorrt.plan_text import convolution_types

SMS = {75: "Turing", 80: "A100", 86: "Ampere", 89: "Ada", 120: "Blackwell", 121: "GB10"}
"""Compute capabilities x 10 that the library can build for. No Jetson (87, 110) is among them."""

NO_INT8 = 75
"""Its INT8 convolutions become float, silently, and so do those of every target named beside it."""

DEFAULT_SMS = (86, 89, 120)


def check_sms(sms: Sequence[int], *, int8: bool) -> None:
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
            hint=f"Use --sm {others} for INT8; build SM75 with --fp16." if others else "Use --fp16 for SM75.",
        )


def library() -> Any:
    """The module `tensorrt_rtx`; MissingDependency if it is absent."""
    try:
        import tensorrt_rtx
    except ImportError:
        raise MissingDependency("tensorrt_rtx", extra="rtx", purpose="--target tensorrt-rtx") from None
    return tensorrt_rtx


def build_rtx(
    graph: onnx.ModelProto, spec: ModelSpec, sms: Sequence[int], *, int8: Collection[str] = ()
) -> tuple[bytes, dict[str, tuple[str, str]]]:
    """Build a plan and read its convolutions' types back from it.

    Args:
        graph, spec: see `edgedet.export.tensorrt.build.build`.
        sms: the GPUs, by compute capability x 10.
        int8: the convolutions that must be INT8 in the plan, no more and no fewer.

    Returns:
        the plan, and {convolution: (input type, weight type)}.

    Raises:
        TargetError: the library refuses the graph, or the plan's INT8 convolutions are not those expected.
    """
    trt = library()
    check_sms(sms, int8=bool(int8))

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(sms)
        for i, sm in enumerate(sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), i)

    facts = {"compute_capabilities": ",".join(str(s) for s in sms), "precision": spec.precision}
    plan = build(trt, graph, spec, facts, configure)
    types = convolution_types(plan)
    check_int8(types, int8)
    return plan, types


def check_int8(types: dict[str, tuple[str, str]], expected: Collection[str]) -> None:
    """TargetError unless exactly the expected convolutions have INT8 input and weight."""
    found = {name for name, kinds in types.items() if kinds == ("int8", "int8")}
    differing = [n for n in expected if n not in found] or sorted(found - set(expected))
    if differing:
        kind = "/".join(types.get(differing[0], ("absent",)))
        raise TargetError(
            f"The plan has {len(found)} INT8 convolutions, expected {len(expected)}; the first that differs,"
            f" {differing[0]!r}, is {kind}.",
            hint="The target silently changed the precision: build with --fp16, or for another --sm.",
        )
