"""Building a TensorRT plan: what both libraries, `tensorrt` and `tensorrt_rtx`, share.

The network is strongly typed: what is FP16 or INT8 stands in the ONNX (`passes/half.py`, Q/DQ). The plan
of a detector ends at the heads, decode and NMS run after it; that of a semantic model ends at its class
map, uint8. The spec is the network's name, so the plan stays one that `trtexec --loadEngine` opens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from edgedet.contract.errors import TargetError
from edgedet.contract.spec import ModelSpec

BATCHES = (1, 1, 4)
"""Smallest, best and largest batch of the optimization profile."""


def build(
    trt: Any,
    graph: onnx.ModelProto,
    spec: ModelSpec,
    facts: dict[str, str],
    configure: Callable[[Any], None] = lambda _: None,
) -> bytes:
    """Build a plan.

    Args:
        trt: the library, `tensorrt` or `tensorrt_rtx`.
        graph: image -> heads or class map, explicitly typed, without any custom operator (the parser
            aborts the process on a node that names a plugin).
        spec: of that graph.
        facts: what a preflight compares before it deserializes; goes into the spec as `build`.
        configure: called with the builder's config.

    Raises:
        TargetError: the library refuses the graph or cannot build it.
    """
    custom = sorted({n.domain for n in graph.graph.node} - {"", "ai.onnx"})
    if custom:
        raise TargetError(f"The graph has operators of {custom[0]!r}, which {trt.__name__} cannot take.")
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.SerializeToString()):
        error = parser.get_error(0)
        raise TargetError(f"{trt.__name__} cannot take {error.node_name()!r}: {error.desc()}.")
    batch = f"{BATCHES[0]}-{BATCHES[2]}"
    build_facts = {**facts, "library": trt.__name__, "version": trt.__version__, "batch": batch}
    # of an artifact of several plans the first one carries the spec
    network.name = spec.with_(build=build_facts).to_json() if isinstance(spec, ModelSpec) else spec.model
    config = builder.create_builder_config()
    configure(config)
    profile = builder.create_optimization_profile()
    for name, shapes in batch_shapes(spec).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        reason = next(iter(log.errors), "no reason given")
        raise TargetError(f"{trt.__name__} cannot build this network: {reason}.")
    return bytes(serialized)


def batch_shapes(spec: ModelSpec) -> dict[str, list[tuple[int, ...]]]:
    """{input: its shape with the smallest, best and largest batch}. Only the batch is free."""
    free = {name: tuple(n or 1 for n in shape[1:]) for name, shape in spec.input_shapes.items()}
    return {name: [(n, *shape) for n in BATCHES] for name, shape in free.items()}


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
