"""A torch model as a predictor. The only file of this package that uses torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedet.contract.postprocess import Tensors, detections, make_postprocessor
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.proposals import Proposer, RegionInput, in_runs
from edgedet.contract.results import Result, SegmentationMap
from edgedet.contract.spec import ModelSpec, Thresholds
from edgedet.evaluation.evaluate import EVAL_THRESHOLDS, Image, ModelUnderTest

if TYPE_CHECKING:
    import torch

    from edgedet.models.base import Model


def torch_under_test(
    model: Model,
    spec: ModelSpec,
    *,
    device: torch.device | str = "cpu",
    thresholds: Thresholds = EVAL_THRESHOLDS,
    batch: int = 16,
    proposer: Proposer | None = None,
) -> ModelUnderTest:
    """Preprocess -> `model.forward` and `model.decode` -> what `postprocess` gives, up to `batch` at once.

    A model whose spec has `proposals` is called with them as a second argument, (N, P, 4), as many at once as
    `Proposals.rows` says (then of one image); `proposer` makes them instead of the spec's own (one with a
    cache).

    The model must be on `device` and stays there; it runs in eval mode, and its training mode is put
    back after each call.
    """
    import torch

    prepare = Preprocessor(spec.input)
    if spec.proposals and spec.proposals.rows is not None:
        batch = 1  # a run is as large as memory should allow
    buffer = np.zeros((batch, 3, spec.input.height, spec.input.width), np.float32)

    regions = RegionInput(spec, proposer) if spec.proposals else None
    count, rows = (spec.proposals.count, spec.proposals.a_run) if spec.proposals else (0, 1)
    boxes_in = np.zeros((batch, count, 4), np.float32)

    def run(name: str, tensors: Tensors) -> Tensors:
        given = {key: torch.from_numpy(value).to(device) for key, value in tensors.items()}
        return {key: t.float().cpu().numpy() for key, t in model.run_stage(name, given).items()}

    stages = {s.name: functools.partial(run, s.name) for s in spec.stages}
    postprocess = make_postprocessor(spec.with_(thresholds=thresholds), stages)

    def many(images: Sequence[Image]) -> list[Result]:
        transforms = [prepare(image, row) for image, row in zip(images, buffer, strict=False)]
        pixels = torch.from_numpy(buffer[: len(images)]).to(device, memory_format=torch.channels_last)
        given = boxes_in[: len(images)]
        if regions is not None:
            for image, transform, row in zip(images, transforms, given, strict=False):
                regions(image, transform, row)

        def regions_of(part: slice) -> dict[str, torch.Tensor]:
            some: dict[str, torch.Tensor] = model(pixels, torch.from_numpy(given[:, part]).to(device))
            return some

        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                heads = model(pixels) if regions is None else in_runs(regions_of, given, rows)
                if stages:
                    return postprocess(
                        {name: t.float().cpu().numpy() for name, t in heads.items()}, transforms
                    )
                found = {role: t.cpu() for role, t in model.decode(heads, spec.input.size).items()}
        finally:
            model.train(training)
        if "class_map" in found:
            maps = found["class_map"].numpy()
            return [SegmentationMap(p.map_to_frame(m)) for p, m in zip(transforms, maps, strict=True)]
        boxes, scores = found["boxes"].float().numpy(), found["scores"].float().numpy()
        return [detections(boxes[i], scores[i], thresholds, p) for i, p in enumerate(transforms)]

    return ModelUnderTest(many, spec.classes, batch, spec.task)
