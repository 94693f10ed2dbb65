"""Which convolutions cost most when quantised, so that few can be left in float.

Each layer in turn is left in float while all others are INT8; what that adds to the signal-to-noise
ratio of the heads (float heads as the signal) is its score. One layer at a time is an approximation,
since errors interact, but it ranks the few that matter first, which is all it is used for. Everything is
measured in exact arithmetic, so that the ranking is that of the graph, on every CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.calib.observe import Feed, cpu_session
from edgedet.calib.qdq import Placement, quantisable_layers, quantise
from edgedet.calib.scales import Scales

Images = Sequence[Feed]


def signal_to_noise(core: Any, quantised: Any, images: Images) -> float:
    """Of the heads, in decibels: 10 log10(sum of squares / sum of squared differences), over all images."""
    return _decibels(_reference(core, images), quantised, images)


def rank(
    core: Any,
    scales: Scales,
    placement: Placement,
    images: Images,
    *,
    on_layer: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, float]]:
    """All that can be INT8, with the decibels gained by leaving each one alone in float, best first.

    Args:
        core: onnx.ModelProto, the float graph.
        scales: its ranges.
        placement: of the target.
        images: what the graph takes for each of a few dozen images.
        on_layer: called with the number of layers done.
    """
    reference = _reference(core, images)
    layers = quantisable_layers(core, placement)
    base = _decibels(reference, quantise(core, scales, placement).graph, images)
    gains = []
    for done, layer in enumerate(layers, 1):
        graph = quantise(core, scales, placement, keep_float=[layer]).graph
        gains.append((layer, _decibels(reference, graph, images) - base))
        on_layer(done)
    return sorted(gains, key=lambda g: -g[1])


def _reference(core: Any, images: Images) -> list[list[npt.NDArray[np.float32]]]:
    session = cpu_session(core)
    return [_heads(session, x) for x in images]


def _decibels(reference: list[list[npt.NDArray[np.float32]]], graph: Any, images: Images) -> float:
    # exact: this CPU's INT8 kernels are not the target's, and on some CPUs they saturate
    session = cpu_session(graph, exact=True)
    signal = noise = 0.0
    for truth, image in zip(reference, images, strict=True):
        for want, got in zip(truth, _heads(session, image), strict=True):
            signal += float(np.square(want, dtype=np.float64).sum())
            noise += float(np.square(np.subtract(got, want, dtype=np.float64)).sum())
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def _heads(session: Any, image: Feed) -> list[npt.NDArray[np.float32]]:
    return list(session.run(None, dict(image)))
