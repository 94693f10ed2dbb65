"""The NMS contract and its reference.

Every implementation in edgedet keeps this contract (tests/conformance checks all that can run):

1. A candidate is a (box, class) pair with score > `score` (a score equal to the threshold is dropped).
2. Only the `pre_nms` best candidates are looked at, by score; ties go to the lower index, where the
   index of (box a, class k) is a * K + k.
3. In order of score, a candidate is kept unless its IoU with a kept one of the same class (of any class
   if `class_agnostic`) is > `iou` (an IoU equal to the threshold is kept).
4. At most `max_detections` are returned, best first.
5. Scores or boxes that are not finite are refused with EngineError: they mean a broken engine, and a
   NaN compares false with every threshold, so it would vanish or survive by accident.

Sources: lecture, "NMS"; Girshick 2014, 2.2. ONNX NonMaxSuppression and TensorRT's INMSLayer decide the
two equalities the same way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import EngineError
from edgedet.contract.spec import Thresholds

Floats = npt.NDArray[np.float32]


def nms(
    boxes: Floats, scores: Floats, thresholds: Thresholds
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The contract's reference.

    Args:
        boxes: (A, 4) xyxy, or (A, K, 4) where each class has a box of its own. scores: (A, K) in [0, 1].

    Returns:
        box indices (n,) and class labels (n,), best first.

    Raises:
        EngineError: a score or box is not finite.
    """
    classes = scores.shape[1]
    flat = scores.reshape(-1)
    # one pass over the scores: a NaN fails `<=`, as does a candidate
    candidates = np.flatnonzero(~(flat <= thresholds.score))
    best = flat[candidates]
    if not (np.isfinite(best).all() and np.isfinite(boxes).all()):
        raise EngineError(
            "The network's output is not finite (NaN or infinity in boxes or scores).",
            hint="The engine is broken or overflows in its precision: export again in FP32 and compare.",
        )
    if len(candidates) > thresholds.pre_nms:
        # everything above the k-th score, then the first of those equal to it: ties to the lower index
        kth = np.partition(best, len(best) - thresholds.pre_nms)[len(best) - thresholds.pre_nms]
        above = best > kth
        equal = np.flatnonzero(best == kth)[: thresholds.pre_nms - int(above.sum())]
        above[equal] = True
        candidates, best = candidates[above], best[above]
    candidates = candidates[np.argsort(-best, kind="stable")]
    owner = candidates // classes
    label = candidates - owner * classes
    kept = _suppress(boxes_of(boxes, owner, label), label, thresholds)
    return owner[kept], label[kept]


def boxes_of(
    boxes: Floats, owner: npt.NDArray[np.int64], label: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The boxes (n, 4) of pairs of a row of `boxes` and a class; see `nms`."""
    return boxes[owner] if boxes.ndim == 2 else boxes[owner, label]


def _suppress(boxes: Floats, labels: npt.NDArray[np.int64], t: Thresholds) -> list[int]:
    """Indices kept of candidates that are already in order of score.

    Plain lists, in float64: numpy's calls cost more than their work on the few boxes left of a class. It was
    measured slower at any number of candidates, but for more than 1000 of which few are kept.
    """
    kept: list[int] = []
    rivals: dict[int, list[tuple[float, float, float, float, float]]] = {}
    groups = [0] * len(labels) if t.class_agnostic else labels.tolist()
    iou = t.iou
    for i, ((x0, y0, x1, y1), group) in enumerate(zip(boxes.tolist(), groups, strict=True)):
        area = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
        better = rivals.setdefault(group, [])
        for a0, b0, a1, b1, other in better:
            width = (x1 if x1 < a1 else a1) - (x0 if x0 > a0 else a0)
            if width > 0.0:
                height = (y1 if y1 < b1 else b1) - (y0 if y0 > b0 else b0)
                # IoU > t without a division, so that two empty boxes overlap by nothing
                if height > 0.0 and width * height > iou * (other + area - width * height):
                    break
        else:
            kept.append(i)
            if len(kept) == t.max_detections:
                break
            better.append((x0, y0, x1, y1, area))
    return kept
