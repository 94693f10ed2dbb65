"""Accuracy of any callable on any data set: VOC's and COCO's AP; Dice and IoU of a class per pixel; IoU of
one box an image.
"""

from __future__ import annotations

from edgedet.evaluation.evaluate import (
    EVAL_THRESHOLDS,
    ModelUnderTest,
    Predict,
    engine_under_test,
    evaluate,
)
from edgedet.evaluation.evaluate_localisation import evaluate_localisation
from edgedet.evaluation.evaluate_semantic import evaluate_semantic
from edgedet.evaluation.metrics import (
    ClassLocalisation,
    ClassMetrics,
    ClassPixels,
    LocalisationMetrics,
    Metrics,
    ProposalMetrics,
    SegmentationMetrics,
    Trimap,
)
from edgedet.evaluation.proposal_recall import evaluate_proposals

__all__ = [
    "EVAL_THRESHOLDS",
    "ClassLocalisation",
    "ClassMetrics",
    "ClassPixels",
    "LocalisationMetrics",
    "Metrics",
    "ModelUnderTest",
    "Predict",
    "ProposalMetrics",
    "SegmentationMetrics",
    "Trimap",
    "engine_under_test",
    "evaluate",
    "evaluate_localisation",
    "evaluate_proposals",
    "evaluate_semantic",
]
