"""Accuracy of any callable on any data set: VOC's and COCO's AP; Dice and IoU of a class per pixel."""

from __future__ import annotations

from edgedet.evaluation.evaluate import (
    EVAL_THRESHOLDS,
    Predict,
    Predictor,
    engine_predictor,
    evaluate,
)
from edgedet.evaluation.evaluate_semantic import evaluate_semantic
from edgedet.evaluation.metrics import ClassMetrics, ClassPixels, Metrics, SegmentationMetrics, Trimap

__all__ = [
    "EVAL_THRESHOLDS",
    "ClassMetrics",
    "ClassPixels",
    "Metrics",
    "Predict",
    "Predictor",
    "SegmentationMetrics",
    "Trimap",
    "engine_predictor",
    "evaluate",
    "evaluate_semantic",
]
