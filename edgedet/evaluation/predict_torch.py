"""A torch model as a predictor. The only file of this package that uses torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgedet.evaluation.evaluate import EVAL_THRESHOLDS, Predictor
from edgedet.postprocess import detections
from edgedet.preprocess import Preprocessor
from edgedet.results import Detections
from edgedet.spec import ModelSpec, Thresholds

if TYPE_CHECKING:
    import torch

    from edgedet.models.base import Model


def torch_predictor(
    model: Model,
    spec: ModelSpec,
    *,
    device: torch.device | str = "cpu",
    thresholds: Thresholds = EVAL_THRESHOLDS,
) -> Predictor:
    """Preprocess -> `model.forward` and `model.decode` -> NMS, one image at a time, in eval mode.

    The model must be on `device` and stays there; its training mode is put back after each image.
    """
    import torch

    prepare = Preprocessor(spec.input)
    batch = np.zeros((1, 3, spec.input.height, spec.input.width), np.float32)

    def predict(image: npt.NDArray[np.uint8]) -> Detections:
        placement = prepare(image, batch[0])
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                boxes, scores = model.decode(model(torch.from_numpy(batch).to(device)), spec.input.size)
        finally:
            model.train(training)
        return detections(
            boxes[0].float().cpu().numpy(), scores[0].float().cpu().numpy(), thresholds, placement
        )

    return Predictor(predict, spec.classes)
