"""The NMS contract and its numpy reference.

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

from edgedet.contract.boxes import area, intersection
from edgedet.contract.errors import EngineError
from edgedet.contract.spec import Thresholds

Floats = npt.NDArray[np.float32]


def nms(
    boxes: Floats, scores: Floats, thresholds: Thresholds
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The contract's numpy reference.

    Args:
        boxes: (A, 4) xyxy. scores: (A, K) in [0, 1].

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
    order = np.argsort(-best, kind="stable")
    candidates = candidates[order]
    owner, label = np.divmod(candidates, classes)
    kept = _suppress(boxes[owner], label, thresholds)
    return owner[kept], label[kept]


def _suppress(boxes: Floats, labels: npt.NDArray[np.int64], t: Thresholds) -> npt.NDArray[np.int64]:
    """Indices kept of candidates that are already in order of score."""
    areas = area(boxes)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == t.max_detections:
            break
        rest = np.flatnonzero(alive[i + 1 :]) + i + 1
        if not t.class_agnostic:
            rest = rest[labels[rest] == labels[i]]
        overlap = intersection(boxes[i], boxes[rest])
        union = areas[i] + areas[rest] - overlap
        # IoU > t without a division, so that two empty boxes overlap by nothing
        alive[rest[overlap > t.iou * union]] = False
    return np.asarray(kept, np.int64)
