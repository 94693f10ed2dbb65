"""Recall of region proposals: by hand, and of Selective Search on photographs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import DataError
from edgedet.contract.proposals import SelectiveSearch
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.data import open_dataset
from edgedet.evaluation.proposal_recall import evaluate_proposals, first_hits, proposal_recall


def test_the_first_that_overlaps_counts() -> None:
    proposals = np.array([[0, 0, 4, 4], [0, 0, 10, 5], [0, 0, 10, 10]], np.float32)
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], np.float32)
    assert first_hits(proposals, truth).tolist() == [1, 2, np.inf]  # IoU 0.5 counts, 0.4545 does not
    assert first_hits(proposals[:0], truth).tolist() == [np.inf] * 3


def test_over_a_data_set(bright: Path) -> None:
    data = open_dataset(f"voc:{bright}", "val")

    class Two:
        def __call__(self, image: np.ndarray) -> np.ndarray:
            right = [16, 16, 48, 48] if image.mean() > 128 else [0, 0, 2, 2]
            return np.array([[0, 0, 64, 64], right], np.float32)

        def identity(self) -> str:
            return "two"

    share, number = proposal_recall(Two(), data, (1, 2))
    assert share == {1: 0.0, 2: pytest.approx(4 / 5)}  # the cat is in a dark image
    assert number == 2


def test_of_a_network(bright: Path) -> None:
    """Any region counts, whatever its class and place; objects to ignore and unreadable images do not."""
    data = open_dataset(f"voc:{bright}", "val")

    def predict(image: np.ndarray) -> Detections:
        right = [16, 16, 48, 48] if image.mean() > 128 else [0, 0, 2, 2]
        boxes = np.array([[0, 0, 64, 64], right], np.float32)
        return Detections(boxes, np.array([0.9, 0.1], np.float32), np.array([0, 0]))

    found = evaluate_proposals(predict, data, progress=False)
    assert (found.recall, found.objects, found.proposals) == (pytest.approx(4 / 5), 5, 2)
    assert json.loads(found.to_json())["recall"] == found.recall
    ignored = replace(data, truths=[replace(t, ignore=np.ones_like(t.ignore)) for t in data.truths])
    nothing = evaluate_proposals(predict, ignored, progress=False)
    assert nothing.recall is None and "no object that counts" in nothing.not_measured
    half = evaluate_proposals(predict, data, iou=1.0, limit=2, progress=False)
    assert (half.images, half.iou) == (2, 1.0) and "measured on 2 of" in half.notes[0]
    with pytest.raises(DataError, match="gives a SegmentationMap, not regions"):
        evaluate_proposals(lambda image: SegmentationMap(image[..., 0]), data, progress=False)


def test_selective_search_finds_most_objects_of_photographs(shared: Path) -> None:
    data = open_dataset(f"voc:{shared / 'VOCdevkit/VOC2007'}", "val")
    share, number = proposal_recall(SelectiveSearch(), data, (300, 1000), limit=12)
    assert 0.55 < share[300] <= share[1000]
    assert share[1000] > 0.7
    assert 200 < number < 2000
