"""The NMS contract, its numpy reference, and the way from output tensors to results.

Which way it is depends on `ModelSpec.decode.kind`: boxes and scores go through NMS to `Detections`, a
class per pixel goes to the frame's size as a `SegmentationMap`.

The NMS contract, which every implementation in edgedet keeps (tests/conformance checks all that can run):

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

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import area, intersection
from edgedet.contract.decode import DECODERS, MAP_DECODERS
from edgedet.contract.errors import EngineError, SpecError, UnknownName
from edgedet.contract.preprocess import FrameTransform
from edgedet.contract.results import Detections, Result, SegmentationMap
from edgedet.contract.spec import ModelSpec, Thresholds

Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, npt.NDArray[Any]]
"""An engine's output tensors by name."""


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


def detections(
    boxes: Floats, scores: Floats, thresholds: Thresholds, transform: FrameTransform
) -> Detections:
    """One image's dense boxes (A, 4), network pixels, and scores (A, K) -> results in frame pixels."""
    index, labels = nms(boxes, scores, thresholds)
    found = transform.to_frame(boxes[index]).astype(np.float32, copy=False)
    return Detections(found, scores[index, labels].astype(np.float32, copy=False), labels)


def postprocess(outputs: Outputs, spec: ModelSpec, transforms: list[FrameTransform]) -> list[Result]:
    """A batch of engine outputs -> one result per frame, in order of `transforms`.

    Raises:
        UnknownName: no such decoder. EngineError: values that no sound engine gives.
    """
    if spec.decode.kind in MAP_DECODERS:
        return [*segment(outputs, spec, transforms)]
    return [*detect(outputs, spec, transforms)]


def detect(outputs: Outputs, spec: ModelSpec, transforms: list[FrameTransform]) -> list[Detections]:
    """`postprocess` for a model that gives boxes; SpecError for one that gives maps."""
    kind = spec.decode.kind
    if kind in MAP_DECODERS:
        raise SpecError(f"{spec.model!r} gives a class per pixel, no boxes.")
    if kind not in DECODERS:
        raise UnknownName("decoder", kind, [*DECODERS, *MAP_DECODERS])
    heads = {o.role: outputs[o.name] for o in spec.outputs}
    boxes, scores = DECODERS[kind](heads, spec.input.size, **spec.decode.parameters)
    return [detections(boxes[i], scores[i], spec.thresholds, p) for i, p in enumerate(transforms)]


def segment(outputs: Outputs, spec: ModelSpec, transforms: list[FrameTransform]) -> list[SegmentationMap]:
    """`postprocess` for a model that gives a class per pixel; SpecError for any other.

    Every map is an array of its own: results outlive the engine's buffers, and whoever gets one may keep it.
    """
    maps = class_maps(outputs, spec, len(transforms))
    return [SegmentationMap(p.map_to_frame(m)) for p, m in zip(transforms, maps, strict=True)]


def class_maps(outputs: Outputs, spec: ModelSpec, count: int) -> npt.NDArray[np.uint8]:
    """The first `count` maps of a batch, checked: (count, height, width) uint8 at network size.

    They may share the engine's buffers.

    Raises:
        SpecError: the model gives no maps. EngineError: a value that is not the index of a class, a map of
            another size, or logits that are not finite.
    """
    decoder = MAP_DECODERS.get(spec.decode.kind)
    if decoder is None:
        raise SpecError(f"{spec.model!r} gives no class per pixel: it is a model for {spec.task}.")
    heads = {o.role: outputs[o.name][:count] for o in spec.outputs}
    if "class_map" not in heads and not np.isfinite(heads["class_logits"]).all():
        raise EngineError(
            "The network's output is not finite (NaN or infinity in the class logits).",
            hint="The engine is broken or overflows in its precision: export again in FP32 and compare.",
        )
    maps = decoder(heads, spec.input.size, **spec.decode.parameters)
    if maps.shape[1:] != spec.input.size or maps.dtype.kind not in "iu":
        height, width = spec.input.size
        raise EngineError(
            f"The network's class map is {maps.dtype} {maps.shape}, "
            f"expected integers ({count}, {height}, {width})."
        )
    low, high = (int(maps.min()), int(maps.max())) if maps.size else (0, 0)
    if low < 0 or high >= len(spec.classes):
        raise EngineError(
            f"The network's class map has the value {low if low < 0 else high}, "
            f"expected 0 to {len(spec.classes) - 1}.",
            hint="The engine is broken, or the spec belongs to another graph: export the model again.",
        )
    return np.asarray(maps, np.uint8)
