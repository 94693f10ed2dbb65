"""Ranges of a graph's tensors over a calibration set: one image at a time, one histogram per tensor.

The float graph runs in ONNX Runtime with every quantisable tensor as an extra output; what leaves it is
counted and dropped. Memory is one image's tensors and the histograms, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.calib.features import OPERATORS, features
from edgedet.calib.observers import METHODS, MagnitudeHistogram
from edgedet.calib.scales import Scales, binding
from edgedet.contract.errors import CalibrationError, MissingDependency, UnknownName

Feed: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What a graph takes, by the names of its inputs."""

DEFAULT_METHOD = "mse"

CHECKPOINTS = 20
"""How often, over the whole set, ranges are compared to tell when they settled."""

TOLERANCE = 0.02


def quantisable(core: Any) -> list[str]:
    """The tensors a Q/DQ writer may ask for, in graph order: feature maps that OPERATORS read.

    A head is among them only where an operator reads it too, as in a feature pyramid; no coordinate is
    (`calib.features`).
    """
    allowed = features(core)
    found: dict[str, None] = {}
    for node in core.graph.node:
        if node.op_type in OPERATORS:
            found.update((n, None) for n in node.input if n in allowed)
    return list(found)


def observe(
    core: Any,
    images: Iterable[Feed],
    *,
    total: int,
    data: Callable[[], str],
    method: str = DEFAULT_METHOD,
    on_image: Callable[[int], None] = lambda _: None,
) -> Scales:
    """Run the float graph over a calibration set and choose a range for every quantisable tensor.

    Args:
        core: onnx.ModelProto, image -> heads, float32.
        images: what the graph takes for each image, one after the other.
        total: how many there will be at most; spreads the checkpoints.
        data: says what was looked at, asked once at the end.
        method: a key of `observers.METHODS`.
        on_image: called with the number of images done, for a progress bar.

    Raises:
        CalibrationError: no image at all, or a tensor that is not finite.
    """
    if method not in METHODS:
        raise UnknownName("calibration method", method, METHODS)
    names = quantisable(core)
    given = {v.name for v in core.graph.input}
    inner = [n for n in names if n not in given]
    session = cpu_session(core, inner)
    histograms = {n: MagnitudeHistogram() for n in names}
    every = max(1, total // CHECKPOINTS)
    history: list[tuple[int, npt.NDArray[np.float64]]] = []
    done = 0
    for image in images:
        values = {**image, **dict(zip(inner, session.run(inner, dict(image)), strict=True))}
        for name, histogram in histograms.items():
            try:
                histogram.add(values[name])
            except FloatingPointError:
                raise CalibrationError(
                    f"Tensor {name!r} is not finite (NaN or infinity) on image {done + 1}.",
                    hint="The weights are broken: evaluate them with edgedet-eval before quantising.",
                ) from None
        done += 1
        if done % every == 0:
            history.append((done, _thresholds(histograms, method)))
        on_image(done)
    if not done:
        raise CalibrationError(
            "The calibration set holds no usable image.", hint="Give --calib-data a folder with images."
        )
    ranges = {n: h.range(method) for n, h in histograms.items()}
    final = np.array([r.threshold for r in ranges.values()])
    settled = _settled(history, final, done)
    graph, norms = binding(core)
    return Scales(graph, data(), done, method, settled, ranges, norms)


def _thresholds(histograms: dict[str, MagnitudeHistogram], method: str) -> npt.NDArray[np.float64]:
    return np.array([h.range(method).threshold for h in histograms.values()])


def _settled(
    history: list[tuple[int, npt.NDArray[np.float64]]], final: npt.NDArray[np.float64], images: int
) -> int:
    """The first checkpoint from which on every threshold stays within TOLERANCE of its last value."""
    settled = images
    for done, thresholds in reversed(history):
        if (np.abs(thresholds - final) > TOLERANCE * final).any():
            break
        settled = done
    return settled


def cpu_session(core: Any, outputs: Sequence[str] = (), *, exact: bool = False) -> Any:
    """An onnxruntime.InferenceSession of a graph on the CPU, with more tensors as outputs behind its own.

    `run(None, ...)` returns the graph's own outputs where `outputs` is empty. `exact`: the graph as it is
    written, no node fused with another: of a graph with Q/DQ the same result on every CPU.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency("onnxruntime", extra="export", purpose="Calibration") from None
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(core)
    heads = {o.name for o in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs if n not in heads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # an arena keeps what it once grew to; without it the peak is one image's tensors
    options.enable_cpu_mem_arena = False
    # between two runs the cores are needed for counting, and perhaps by others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
