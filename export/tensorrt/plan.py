"""The plan of a target that takes one, and what is said about it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import onnx

from edgedet.calib import Quantised
from edgedet.contract.spec import ModelSpec
from edgedet.export.artifacts import Artifacts, part
from edgedet.export.options import Log
from edgedet.export.tensorrt.rtx import build_rtx, library
from edgedet.export.tensorrt.trt import build_tensorrt, can_build, trtexec
from edgedet.runtime.engines.engine import stage_spec


def build_plan(files: Artifacts, quantised: Quantised, log: Log) -> bool:
    """Add the plan to the artifacts: one of the first graph, and one of each that runs after NMS.

    Args:
        files: with the graphs in the precision asked for.
        quantised: says which convolutions must be INT8 in the plans.

    Returns:
        whether this machine can build it; else notes say with which commands it is built.

    Raises:
        TargetError: as `build_rtx` and `build_tensorrt`.
    """
    plans: dict[str, bytes] = {}
    stages = []
    for stage in files.spec.stages:
        graph, spec = files.stages[stage.name], stage_spec(files.spec, stage)
        built = _build(files, graph, spec, quantised.stages[stage.name].int8, log, f"-{stage.name}")
        if built is not None:
            plans[stage.name] = built
            stages.append(part(files.plan_name, stage, built))
    spec = replace(files.spec, stages=tuple(stages) or files.spec.stages)
    first = _build(files, files.graph, spec, quantised.int8, log)
    if first is None:
        return False
    files.plan(first, plans)
    return True


def _build(
    files: Artifacts,
    graph: onnx.ModelProto,
    spec: ModelSpec,
    int8: Collection[str],
    log: Log,
    suffix: str = "",
) -> bytes | None:
    """The plan of one graph, or None with a note on how to build it where this machine cannot.

    suffix: of its file's name.
    """
    if files.target.name == "tensorrt-rtx":
        started = time.perf_counter()
        sms = files.options.sms
        plan, types = build_rtx(graph, spec, sms, int8=int8)
        kinds = [kind for kind, _ in types.values()]
        counts = {k: kinds.count(k) for k in sorted(set(kinds))}
        found = ", ".join(f"{n} {k}" for k, n in counts.items())
        expected = f"; {len(int8)} int8 expected" if int8 else ""
        log.console.line(
            "build",
            f"TensorRT for RTX {library().__version__} for {', '.join(f'SM{s}' for s in sms)},"
            f" convolutions in the plan{suffix.replace('-', ' of the ')}: {found}{expected}",
        )
        log.facts[f"plan{suffix}"] = {
            "compute capabilities": list(sms),
            "convolutions by input type": counts,
            "INT8 expected": len(int8),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return plan
    if can_build():
        return build_tensorrt(graph, spec)
    command = trtexec(spec, f"{files.stem}{suffix}.onnx", f"{files.stem}{suffix}.plan")
    log.notes.append(f"TensorRT is not installed here; build the plan on its device: {command}")
    return None
