"""Accuracy of any callable on any data set: VOC's 11-point and every-point AP, COCO's AP."""

from __future__ import annotations

from edgedet.evaluation.evaluate import (
    EVAL_THRESHOLDS,
    Predict,
    Predictor,
    engine_predictor,
    evaluate,
)
from edgedet.evaluation.metrics import ClassMetrics, Metrics

__all__ = [
    "EVAL_THRESHOLDS",
    "ClassMetrics",
    "Metrics",
    "Predict",
    "Predictor",
    "engine_predictor",
    "evaluate",
]
