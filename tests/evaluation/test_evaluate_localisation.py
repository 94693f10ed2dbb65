"""Mean IoU of one box an image, by hand, and through engines."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import DataError
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.data import Dataset, open_dataset
from edgedet.evaluation import ModelUnderTest, evaluate_localisation
from edgedet.evaluation.report import localisation_class_table, localisation_summary_table


def said(*box: float, label: int = 0) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.5], np.float32), np.array([label], np.int64))


@pytest.fixture
def data(bright: Path) -> Dataset:
    """Four images with a dog at (16, 16, 48, 48), the fifth with a cat there, three with nothing."""
    return open_dataset(f"voc:{bright}", "val", classes=("dog", "cat"))


def answers(*results: Detections) -> object:
    waiting = list(results)
    return lambda image: waiting.pop(0)


def test_by_hand(data: Dataset) -> None:
    assert [len(t.boxes) for t in data.truths] == [1, 1, 0, 1, 0, 1, 0, 1]  # cat, dog, dog, dog, dog
    predict = answers(
        said(16, 16, 48, 48, label=1),  # right
        said(16, 16, 48, 48, label=1),  # IoU 1, wrong class
        said(16, 16, 32, 48),  # IoU 0.5
        said(16, 16, 24, 48),  # IoU 0.25, right class
        Detections.empty(),  # IoU 0, no class
    )
    found = evaluate_localisation(predict, data, progress=False)
    assert found.mean_iou == pytest.approx((1 + 1 + 0.5 + 0.25 + 0) / 5)
    assert (found.class_accuracy, found.localised) == (pytest.approx(3 / 5), pytest.approx(2 / 5))
    dog, cat = found.classes
    assert (dog.name, dog.images, dog.mean_iou) == ("dog", 4, pytest.approx(1.75 / 4))
    assert (dog.class_accuracy, dog.localised) == (0.5, 0.25)
    assert (cat.images, cat.mean_iou, cat.class_accuracy, cat.localised) == (1, 1, 1, 1)
    assert (found.images, found.fingerprint) == (5, data.fingerprint())
    assert any("3 of 8 images left out" in note for note in found.notes)
    assert json.loads(found.to_json())["mean_iou"] == found.mean_iou


def test_only_the_best_detection_counts(data: Dataset) -> None:
    two = Detections(
        np.array([[0, 0, 8, 8], [16, 16, 48, 48]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, int),
    )
    assert evaluate_localisation(lambda image: two, data, progress=False).mean_iou == 0


def test_classes_are_matched_by_name_and_unknown_ones_left_out(data: Dataset) -> None:
    model = ModelUnderTest(lambda images: [said(16, 16, 48, 48, label=1) for _ in images], ("cow", "dog"))
    found = evaluate_localisation(model, data, progress=False)
    assert (found.images, found.mean_iou, found.class_accuracy) == (4, 1, 1)
    assert [c.name for c in found.classes] == ["dog"]


def test_what_is_no_box_is_refused(data: Dataset) -> None:
    with pytest.raises(DataError, match="gives a SegmentationMap, not a box"):
        evaluate_localisation(lambda image: SegmentationMap(image[..., 0]), data, progress=False)


def test_tables_show_the_figures(data: Dataset) -> None:
    from rich.console import Console

    found = evaluate_localisation(lambda image: said(16, 16, 32, 48), data, progress=False)
    console = Console(width=120, record=True, file=io.StringIO())
    results = {"a": found, "b": replace(found)}
    console.print(localisation_summary_table(results), localisation_class_table(results))
    rows = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert rows[0] == "voc:bright val: 5 images with one object"
    assert "b 50.00 80.00 80.00 +0.00" in rows
    assert "dog 4 50.00 / 100.00 50.00 / 100.00" in rows
    assert "cat 1 50.00 / 0.00 50.00 / 0.00" in rows
    assert "all images 50.00 / 80.00 50.00 / 80.00" in rows
