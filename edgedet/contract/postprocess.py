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

from edgedet.contract.boxes import sigmoid
from edgedet.contract.decode import DECODERS, MAP_DECODERS
from edgedet.contract.errors import EdgedetError, EngineError, SpecError, UnknownName
from edgedet.contract.nms import boxes_of, nms
from edgedet.contract.preprocess import FrameTransform
from edgedet.contract.results import Detections, Instances, Result, SegmentationMap
from edgedet.contract.spec import ModelSpec, Stage, Task, Tensor, Thresholds

Floats: TypeAlias = npt.NDArray[np.float32]

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""An engine's tensors by name."""

Infer: TypeAlias = Callable[[Tensors], Tensors]
"""A stage's engine: its inputs by name -> its outputs by name."""


class Postprocessor(ABC):
    """A batch of an engine's outputs -> one result per frame. Holds no state: any thread may call it."""

    def __init__(self, spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> None:
        self.spec = spec
        self.stages = dict(stages or {})

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

    def __init__(self, spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> None:
        super().__init__(spec, stages)
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


class InstancePostprocessor(BoxPostprocessor):
    """Decode -> NMS -> the mask stage on what is kept -> `Instances` (He et al. 2017, section 3.1).

    The stage takes "boxes" (N, D, 4), the kept ones of each image in network pixels, cut to the frame and
    padded with empty ones, and tensors of the first graph by their names; it gives "masks" (N, D, K, m, m),
    logits, or (N, D, 1, m, m) where all classes share one. It runs once for each D boxes of the image that
    has most, and not at all where nothing is kept.
    """

    def __init__(self, spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> None:
        super().__init__(spec, stages)
        if len(spec.stages) != 1:
            raise SpecError(f"{spec.model!r} has {len(spec.stages)} stages; instances take one, for masks.")
        self.stage = spec.stages[0]
        self._boxes = _only(self.stage, "input", "boxes")
        self._masks = _only(self.stage, "output", "masks")
        rows, shape = self._boxes.shape[1], self._masks.shape
        square = len(shape) == 5 and shape[3] == shape[4] and shape[2] in (1, len(spec.classes))
        if self._boxes.shape[2:] != (4,) or not square or shape[1] != rows:
            raise SpecError(
                f"The stage {self.stage.name!a:.60} takes boxes {self._boxes.shape} and gives masks {shape},"
                f" expected (N, D, 4) and (N, D, 1 or {len(spec.classes)}, m, m)."
            )

    def __call__(self, outputs: Tensors, transforms: Sequence[FrameTransform]) -> list[Result]:
        """See Postprocessor."""
        found = super().__call__(outputs, transforms)
        kept = [d for d in found if isinstance(d, Detections)]
        masks = self._logits(outputs, kept, transforms)
        return [Instances(d, np.asarray(sigmoid(m), np.float32)) for d, m in zip(kept, masks, strict=True)]

    def _logits(
        self, outputs: Tensors, kept: Sequence[Detections], transforms: Sequence[FrameTransform]
    ) -> list[Floats]:
        """Of each image (n, m, m): the mask of each box's class."""
        rows, (classes, side) = int(self._boxes.shape[1] or 1), self._masks.shape[2:4]
        given = {t.name: outputs[t.name] for t in self.stage.inputs if t.role != "boxes"}
        batch = len(next(iter(given.values()))) if given else len(kept)
        logits = [np.zeros((len(d), side or 1, side or 1), np.float32) for d in kept]
        for first in range(0, max(map(len, kept), default=0), rows):
            boxes = np.zeros((batch, rows, 4), np.float32)
            for row, d, t in zip(boxes, kept, transforms, strict=False):
                some = d.boxes[first : first + rows]
                row[: len(some)] = t.to_network(some)
            made = self.stages[self.stage.name]({**given, self._boxes.name: boxes})[self._masks.name]
            for all_, d, image in zip(made, kept, logits, strict=False):
                labels = d.labels[first : first + rows]
                own = labels if classes != 1 else np.zeros_like(labels)
                image[first : first + rows] = all_[np.arange(len(labels)), own]
        if not all(np.isfinite(image).all() for image in logits):
            raise EngineError(
                "The mask stage's output is not finite (NaN or infinity).",
                hint="The engine is broken or overflows in its precision: export again in FP32 and compare.",
            )
        return logits

    def check(self, outputs: Tensors) -> None:
        """See Postprocessor."""
        super().check(outputs)
        for tensor in self.stage.inputs:
            given = outputs.get(tensor.name)
            if tensor.role != "boxes" and (given is None or given.shape[1:] != tensor.shape[1:]):
                raise SpecError(
                    f"the stage {self.stage.name!a:.60} takes {tensor.name!a:.60} {tensor.shape},"
                    f" the graph gives {None if given is None else given.shape}"
                )


def _only(stage: Stage, side: str, role: str) -> Tensor:
    """The one tensor of a role; SpecError if there is none."""
    tensors = stage.inputs if side == "input" else stage.outputs
    found = [t for t in tensors if t.role == role]
    if len(found) != 1:
        raise SpecError(
            f"The stage {stage.name!a:.60} has {len(found)} {side}s of role {role!r}, expected 1."
        )
    return found[0]


class MapPostprocessor(Postprocessor):
    """The class of every pixel of the frame: `SegmentationMap`."""

    def __init__(self, spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> None:
        super().__init__(spec, stages)
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
    "instance": InstancePostprocessor,
}
"""Task -> what makes its results."""


def make_postprocessor(spec: ModelSpec, stages: Mapping[str, Infer] | None = None) -> Postprocessor:
    """The postprocessor of a spec, its decoder tried on zeros.

    Args:
        spec: of the graph whose outputs it will get.
        stages: `infer` of the engine of each of `ModelSpec.stages`, by its name.

    Raises:
        SpecError: the decoder does not take these outputs or parameters, or gives something else than the
            task needs; a stage has no engine. UnknownName: no such decoder.
    """
    lacking = [s.name for s in spec.stages if s.name not in (stages or {})]
    if lacking:
        raise SpecError(f"{spec.model!a:.60} needs an engine for its stage {lacking[0]!a:.60}.")
    made = POSTPROCESSORS[spec.task](spec, stages)
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
