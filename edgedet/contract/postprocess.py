"""From output tensors to results: an object made from the spec, when a file is opened.

Making it proves that the spec's decoder fits its tensors, by decoding zeros of their shapes once, so that a
spec that cannot be meant is refused before any frame is read. What results are is the task's entry of
POSTPROCESSORS: another kind of result is another class here. Where a graph runs between NMS and the
results (`ModelSpec.stages`: masks), the one who opens the engines hands their `infer` to the maker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.contract.decode import DECODERS, MAP_DECODERS
from edgedet.contract.errors import EdgedetError, EngineError, SpecError, UnknownName
from edgedet.contract.nms import boxes_of, nms
from edgedet.contract.preprocess import FrameTransform
from edgedet.contract.results import Detections, Result, SegmentationMap
from edgedet.contract.spec import ModelSpec, Task, Tensor, Thresholds

Floats: TypeAlias = npt.NDArray[np.float32]

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""An engine's tensors by name."""

Infer: TypeAlias = Callable[[Tensors], Tensors]
"""A stage's engine: its inputs by name -> its outputs by name."""


class Postprocessor(ABC):
    """A batch of an engine's outputs -> one result per frame. Holds no state: any thread may call it."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @abstractmethod
    def __call__(self, outputs: Tensors, transforms: Sequence[FrameTransform]) -> list[Result]:
        """The results of the first `len(transforms)` images of a batch, in their order.

        Every result owns its arrays: it outlives the engine's buffers.

        Raises:
            EngineError: values that no sound engine gives.
        """

    @abstractmethod
    def check(self, outputs: Tensors) -> None:
        """That the decoder takes these outputs and gives what the task needs; raises anything if not."""

    def heads(self, outputs: Tensors, count: int) -> dict[str, npt.NDArray[Any]]:
        """The output tensors of the first `count` images by role."""
        return {o.role: outputs[o.name][:count] for o in self.spec.outputs}


class BoxPostprocessor(Postprocessor):
    """Decode -> NMS -> `Detections` in frame pixels."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.decode.kind not in DECODERS:
            raise UnknownName("decoder", spec.decode.kind, [*DECODERS, *MAP_DECODERS])
        self._decode = DECODERS[spec.decode.kind]

    def __call__(self, outputs: Tensors, transforms: Sequence[FrameTransform]) -> list[Result]:
        """See Postprocessor."""
        boxes, scores = self.decode(outputs, len(transforms))
        limits = self.spec.thresholds
        return [detections(boxes[i], scores[i], limits, t) for i, t in enumerate(transforms)]

    def decode(self, outputs: Tensors, count: int) -> tuple[Floats, Floats]:
        """Boxes (count, A, 4) or (count, A, K, 4), network pixels, and scores (count, A, K): all of them."""
        spec = self.spec
        boxes, scores = self._decode(self.heads(outputs, count), spec.input.size, **spec.decode.parameters)
        return boxes, scores

    def check(self, outputs: Tensors) -> None:
        """See Postprocessor."""
        boxes, scores = self.decode(outputs, 1)
        rows, classes = boxes.shape[1] if boxes.ndim > 1 else 0, len(self.spec.classes)
        if boxes.shape not in ((1, rows, 4), (1, rows, classes, 4)) or scores.shape != (1, rows, classes):
            raise SpecError(
                f"decoding gives boxes {boxes.shape} and scores {scores.shape}, expected (1, A, 4) or"
                f" (1, A, {classes}, 4), and (1, A, {classes})"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise SpecError("decoding zeros gives numbers that are not finite")


def detections(
    boxes: Floats, scores: Floats, thresholds: Thresholds, transform: FrameTransform
) -> Detections:
    """One image's boxes (A, 4) or (A, K, 4), network pixels, and scores (A, K) -> results in frame pixels."""
    index, labels = nms(boxes, scores, thresholds)
    found = transform.to_frame(boxes_of(boxes, index, labels)).astype(np.float32, copy=False)
    return Detections(found, scores[index, labels].astype(np.float32, copy=False), labels)


class MapPostprocessor(Postprocessor):
    """The class of every pixel of the frame: `SegmentationMap`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.decode.kind not in MAP_DECODERS:
            raise UnknownName("decoder", spec.decode.kind, [*DECODERS, *MAP_DECODERS])
        self._decode = MAP_DECODERS[spec.decode.kind]

    def __call__(self, outputs: Tensors, transforms: Sequence[FrameTransform]) -> list[Result]:
        """See Postprocessor."""
        maps = self.class_maps(outputs, len(transforms))
        return [SegmentationMap(t.map_to_frame(m)) for t, m in zip(transforms, maps, strict=True)]

    def class_maps(self, outputs: Tensors, count: int) -> npt.NDArray[np.uint8]:
        """The first `count` maps of a batch, checked: (count, height, width) uint8 at network size.

        They may share the engine's buffers.

        Raises:
            EngineError: a value that is not the index of a class, a map of another size, or logits that
                are not finite.
        """
        spec = self.spec
        heads = self.heads(outputs, count)
        if "class_map" not in heads and not np.isfinite(heads["class_logits"]).all():
            raise EngineError(
                "The network's output is not finite (NaN or infinity in the class logits).",
                hint="The engine is broken or overflows in its precision: export again in FP32 and compare.",
            )
        maps = self._decode(heads, spec.input.size, **spec.decode.parameters)
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

    def check(self, outputs: Tensors) -> None:
        """See Postprocessor."""
        self.class_maps(outputs, 1)


POSTPROCESSORS: dict[Task, type[Postprocessor]] = {
    "detection": BoxPostprocessor,
    "localisation": BoxPostprocessor,
    "semantic": MapPostprocessor,
}
"""Task -> what makes its results."""


def make_postprocessor(spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> Postprocessor:
    """The postprocessor of a spec, its decoder tried on zeros.

    Args:
        spec: of the graph whose outputs it will get.
        stages: `infer` of the engine of each of `ModelSpec.stages`, by its name.

    Raises:
        SpecError: the decoder does not take these outputs or parameters, or gives something else than the
            task needs; the task has no postprocessor; a stage has no engine. UnknownName: no such decoder.
    """
    kind = POSTPROCESSORS.get(spec.task)
    if kind is None:
        raise SpecError(f"{spec.model!r}: this edgedet makes no results of the task {spec.task!r}.")
    lacking = [s.name for s in spec.stages if s.name not in (stages or {})]
    if lacking:
        raise SpecError(f"{spec.model!r} needs an engine for its stage {lacking[0]!r}.")
    made = kind(spec)
    try:
        with np.errstate(all="ignore"):
            made.check({o.name: _zeros(o) for o in spec.outputs})
    except (EdgedetError, KeyError, TypeError, ValueError, IndexError, ArithmeticError, MemoryError) as e:
        why = f"no output has the role {e}" if isinstance(e, KeyError) else str(e).rstrip(".")
        raise SpecError(
            f"Invalid spec of {spec.model!r}: the decoder {spec.decode.kind!r} with"
            f" {dict(spec.decode.parameters)!r:.200} does not fit its outputs: {why:.300}.",
            hint="Export the model again.",
        ) from None
    return made


def _zeros(tensor: Tensor) -> npt.NDArray[Any]:
    return np.zeros([1, *(n or 1 for n in tensor.shape[1:])], tensor.dtype)
