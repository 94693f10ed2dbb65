"""Which convolutions cost most when quantised, so that few can be left in float.

Each layer in turn is left in float while all others are INT8; what that adds to the signal-to-noise
ratio of the heads (float heads as the signal) is its score. One layer at a time is an approximation,
since errors interact, but it ranks the few that matter first, which is all it is used for. Everything is
measured in exact arithmetic, so that the ranking is that of the graph, on every CPU.

Heads that have a row for each region are compared region by region: INT8 ranks proposals otherwise, and row
by row nearly everything would be noise. A region that INT8 does not propose is noise all over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.calib.observe import Feed, cpu_session
from edgedet.calib.qdq import Placement, quantisable_layers, quantise
from edgedet.calib.scales import Scales
from edgedet.contract.boxes import area, pairwise_iou

Images = Sequence[Feed]
Heads = list[npt.NDArray[np.float32]]


def signal_to_noise(core: Any, quantised: Any, images: Images) -> float:
    """Of the heads, in decibels: 10 log10(sum of squares / sum of squared differences), over all images.

    Where there are several heads, of the mean of their ratios.
    """
    return _decibels(_reference(core, images), quantised, images, "")


def rank(
    core: Any,
    scales: Scales,
    placement: Placement,
    images: Images,
    *,
    regions: str = "",
    on_layer: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, float]]:
    """All that can be INT8, with the decibels gained by leaving each one alone in float, best first.

    Args:
        core: onnx.ModelProto, the float graph.
        scales: its ranges.
        placement: of the target.
        images: what the graph takes for each of a few dozen images.
        regions: the head (N, P, 4) that says which region each row of the others is of; "" where none does.
        on_layer: called with the number of layers done.
    """
    reference = _reference(core, images)
    layers = quantisable_layers(core, placement)
    base = _decibels(reference, quantise(core, scales, placement).graph, images, regions)
    gains = []
    for done, layer in enumerate(layers, 1):
        graph = quantise(core, scales, placement, keep_float=[layer]).graph
        gains.append((layer, _decibels(reference, graph, images, regions) - base))
        on_layer(done)
    return sorted(gains, key=lambda g: -g[1])


def _reference(core: Any, images: Images) -> list[Heads]:
    session = cpu_session(core)
    return [_heads(session, x) for x in images]


def _decibels(reference: list[Heads], graph: Any, images: Images, regions: str) -> float:
    # exact: this CPU's INT8 kernels are not the target's, and on some CPUs they saturate
    session = cpu_session(graph, exact=True)
    names = [o.name for o in graph.graph.output]
    signal, noise = np.zeros(len(names)), np.zeros(len(names))
    for truth, image in zip(reference, images, strict=True):
        found = _heads(session, image)
        if regions:
            found = same_rows(truth, found, names.index(regions))
        for i, (want, got) in enumerate(zip(truth, found, strict=True)):
            signal[i] += np.square(want, dtype=np.float64).sum()
            noise[i] += np.square(np.subtract(got, want, dtype=np.float64)).sum()
    ratio = float(np.mean(noise / np.maximum(signal, 1e-30)))
    return float(-10 * np.log10(max(ratio, 1e-30)))


def same_rows(want: Heads, got: Heads, regions: int) -> Heads:
    """The rows of `got` put where `want` has the same regions: boxes that overlap by half or more, each once.

    Rows are 0 where `got` has no such region, and as in `want` where that has none itself.

    Args:
        regions: the place of the boxes (N, P, 4) among the heads.
    """
    boxes, others = want[regions], got[regions]
    rows = [i for i, g in enumerate(got) if g.ndim < 4 and g.shape[:2] == boxes.shape[:2]]
    moved = [np.zeros_like(g) if i in rows else g for i, g in enumerate(got)]
    for image in range(len(boxes)):
        overlap = pairwise_iou(boxes[image], others[image])
        for row, size in enumerate(area(boxes[image])):
            other = int(overlap[row].argmax())
            if size <= 0:
                for i in rows:
                    moved[i][image, row] = want[i][image, row]
            elif overlap[row, other] >= 0.5:
                overlap[:, other] = 0
                for i in rows:
                    moved[i][image, row] = got[i][image, other]
    return moved


def _heads(session: Any, image: Feed) -> list[npt.NDArray[np.float32]]:
    return list(session.run(None, dict(image)))
