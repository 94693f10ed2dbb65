"""The plan of a target that takes one, and what is said about it."""

from __future__ import annotations

import time
from collections.abc import Collection

import onnx

from edgedet.contract.spec import ModelSpec
from edgedet.export.options import ExportOptions, Log
from edgedet.export.targets import Target
from edgedet.export.tensorrt.rtx import build_rtx, library
from edgedet.export.tensorrt.trt import build_tensorrt, can_build, trtexec


def build_for(
    target: Target,
    options: ExportOptions,
    graph: onnx.ModelProto,
    spec: ModelSpec,
    int8: Collection[str],
    log: Log,
) -> bytes | None:
    """The plan, or None with a note on how to build it where this machine cannot.

    Args:
        graph, spec: image -> heads or class map, explicitly typed.
        int8: the convolutions that must be INT8 in it.

    Raises:
        TargetError: as `build_rtx` and `build_tensorrt`.
    """
    if target.name == "tensorrt-rtx":
        started = time.perf_counter()
        plan, types = build_rtx(graph, spec, options.sms, int8=int8)
        kinds = [kind for kind, _ in types.values()]
        counts = {k: kinds.count(k) for k in sorted(set(kinds))}
        found = ", ".join(f"{n} {k}" for k, n in counts.items())
        expected = f"; {len(int8)} int8 expected" if int8 else ""
        log.console.line(
            "build",
            f"TensorRT for RTX {library().__version__} for {', '.join(f'SM{s}' for s in options.sms)},"
            f" convolutions in the plan: {found}{expected}",
        )
        log.facts["plan"] = {
            "compute capabilities": list(options.sms),
            "convolutions by input type": counts,
            "INT8 expected": len(int8),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return plan
    if can_build():
        return build_tensorrt(graph, spec)
    command = trtexec(spec, f"{options.stem(target)}.onnx", f"{options.stem(target)}.plan")
    log.notes.append(f"TensorRT is not installed here; build the plan on its device: {command}")
    return None
