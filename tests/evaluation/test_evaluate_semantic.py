"""evaluate_semantic() over plain callables and predictors, on folders of masks."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import DataError, EmptyDataset
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.data import open_dataset
from edgedet.evaluation import ModelUnderTest, evaluate, evaluate_semantic

ROWS, COLUMNS = 20, 30


@pytest.fixture
def masks(tmp_path):
    """Six images, each as bright as its number; left of column 10 + number is "road", then "sky"."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((ROWS, COLUMNS, 3), 10 * i, np.uint8))
        mask = np.ones((ROWS, COLUMNS), np.uint8)
        mask[:, : 10 + i] = 0
        mask[0] = 9
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), mask)
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n9: void\n")
    return tmp_path


@pytest.fixture
def data(masks):
    return open_dataset(f"masks:{masks}", "all")


def split_at(image, extra: int = 0, road: int = 0, sky: int = 1) -> SegmentationMap:
    """The right answer (as the brightness tells it), its boundary `extra` columns further to the right."""
    found = np.full(image.shape[:2], sky, np.uint8)
    found[:, : 10 + int(image[0, 0, 0]) // 10 + extra] = road
    return SegmentationMap(found)


def test_perfect(data):
    metrics = evaluate_semantic(split_at, data, progress=False)
    assert [(c.name, c.iou, c.dice) for c in metrics.classes] == [
        ("road", 1.0, 1.0),
        ("sky", 1.0, 1.0),
        ("car", None, None),  # in neither: not part of the mean
    ]
    assert metrics.mean_iou == metrics.mean_dice == metrics.pixel_accuracy == 1.0
    assert (metrics.images, metrics.skipped, metrics.notes) == (6, 0, ())
    assert metrics.pixels == 6 * (ROWS - 1) * COLUMNS  # the first row is void
    assert metrics.classes[0].truth == metrics.classes[0].predicted == (ROWS - 1) * sum(range(10, 16))
    assert metrics.fingerprint == data.fingerprint()
    assert metrics.trimaps == ()


def test_by_hand_and_in_json(data):
    metrics = evaluate_semantic(lambda image: split_at(image, extra=1), data, trimaps=(4, 1), progress=False)
    columns = sum(range(10, 16))  # of road; each image has one more in the prediction
    road, sky, _ = metrics.classes
    assert road.iou == columns / (columns + 6)
    assert sky.iou == (180 - columns - 6) / (180 - columns)
    assert road.dice == 2 * columns / (2 * columns + 6)
    assert metrics.pixel_accuracy == 174 / 180
    # a row of void lies above: the row below it is near a boundary all along
    near, far = metrics.trimaps
    assert (near.radius, far.radius) == (1, 4)
    assert near.pixels == 6 * (COLUMNS + 2 * (ROWS - 2))
    assert near.mean_iou < far.mean_iou < metrics.mean_iou
    raw = json.loads(metrics.to_json())
    assert raw["mean_iou"] == metrics.mean_iou == (road.iou + sky.iou) / 2
    assert raw["mean_dice"] == metrics.mean_dice
    assert raw["trimaps"][0] == {"radius": 1, "mean_iou": near.mean_iou, "pixels": near.pixels}
    assert raw["classes"][2] == {"name": "car", "truth": 0, "predicted": 0, "iou": None, "dice": None}


def test_classes_are_matched_by_name_in_batches(data):
    sizes = []

    def many(images):
        sizes.append(len(images))
        return [split_at(i, road=2, sky=1) for i in images]

    metrics = evaluate_semantic(ModelUnderTest(many, ("tram", "SKY", "Road"), 4), data, progress=False)
    assert sizes == [4, 2]
    assert {c.name: c.iou for c in metrics.classes} == {"road": 1.0, "sky": 1.0}
    assert metrics.notes == (
        "1 classes of the data are unknown to the model: car",
        "1 classes of the model are not in the data: tram",
    )


def test_what_the_model_calls_by_a_class_the_data_has_not_is_wrong(data):
    metrics = evaluate_semantic(
        lambda image: split_at(image, sky=3), data, classes=("road", "sky", "car", "tram"), progress=False
    )
    assert {c.name: c.iou for c in metrics.classes} == {"road": 1.0, "sky": 0.0, "car": None}
    assert metrics.classes[1].predicted == 0
    assert metrics.pixel_accuracy == pytest.approx(75 / 180)


def test_pixels_of_a_class_the_model_does_not_know_do_not_count(data):
    metrics = evaluate_semantic(
        lambda image: split_at(image, road=1, sky=0), data, classes=("sky", "car"), progress=False
    )
    assert {c.name: c.iou for c in metrics.classes} == {"sky": 1.0, "car": None}
    assert metrics.pixels == (ROWS - 1) * (180 - 75)


def test_limit_is_spread_and_said(data):
    metrics = evaluate_semantic(split_at, data, limit=3, progress=False)
    assert metrics.images == 3
    assert metrics.notes == ("measured on 3 of 6 images",)


def test_what_cannot_be_used_is_skipped_counted_and_noted(data, masks):
    cv2.imwrite(str(masks / "masks" / "1.png"), np.full((ROWS, COLUMNS), 255, np.uint8))
    (masks / "images" / "2.png").write_bytes(b"")
    cv2.imwrite(str(masks / "masks" / "4.png"), np.full((ROWS, COLUMNS), 7, np.uint8))
    metrics = evaluate_semantic(split_at, data, progress=False)
    assert (metrics.images, metrics.skipped, metrics.mean_iou) == (3, 3, 1.0)
    assert metrics.notes[0].startswith("3 images could not be read; the first: ")
    assert "1.png: all void" in metrics.notes[0]
    assert data.problems.counts() == {"all void": 1, "broken image": 1, "label outside the classes": 1}
    for file in (masks / "masks").iterdir():
        file.unlink()
    with pytest.raises(EmptyDataset, match=r"No image of masks:.* can be read; the first: .*unreadable mask"):
        evaluate_semantic(split_at, data, progress=False)


def test_another_task(data, bright):
    boxes = open_dataset(f"voc:{bright}", "val", classes=("dog", "cat"))
    with pytest.raises(DataError, match=r"voc:bright val has no class per pixel.*masks: or voc-seg: data"):
        evaluate_semantic(split_at, boxes, progress=False)
    with pytest.raises(DataError, match="The model gives Detections, not the class maps of masks:"):
        evaluate_semantic(lambda _: Detections.empty(), data, progress=False)
    with pytest.raises(DataError, match=r"masks:.* has no boxes to compare with"):
        evaluate(lambda _: Detections.empty(), data, progress=False)
    with pytest.raises(DataError, match=r"The model gives a SegmentationMap, not boxes.*masks: or voc-seg:"):
        evaluate(split_at, boxes, progress=False)
    with pytest.raises(DataError, match="have none in common"):
        evaluate_semantic(split_at, data, classes=("sheep",), progress=False)


def test_a_map_that_cannot_be(data):
    with pytest.raises(ValueError, match=r"the prediction is \(5, 5\), the truth \(20, 30\)"):
        evaluate_semantic(lambda _: SegmentationMap(np.zeros((5, 5), np.uint8)), data, progress=False)
    with pytest.raises(ValueError, match="the model gives the class 7, but names only 3 classes"):
        evaluate_semantic(lambda image: split_at(image, sky=7), data, progress=False)


def test_real_truth_against_itself_and_moved(shared):
    """CamVid's own masks as the prediction: 1 everywhere; moved by two pixels, the trimap shows it most."""
    data = open_dataset(f"masks:{shared / 'camvid'}", "test")
    truths = {}
    for i in (0, 58, 116, 174):  # what limit=4 looks at
        truths[data.image(i).tobytes()] = data.class_map(i)

    def predict(image, shift=0):
        truth = np.roll(truths[image.tobytes()], shift, axis=1)
        return SegmentationMap(np.where(truth == 255, 0, truth).astype(np.uint8))

    perfect = evaluate_semantic(predict, data, limit=4, trimaps=(3,), progress=False)
    assert perfect.mean_iou == perfect.trimaps[0].mean_iou == perfect.pixel_accuracy == 1.0
    moved = evaluate_semantic(lambda i: predict(i, 2), data, limit=4, trimaps=(3, 10), progress=False)
    assert moved.trimaps[0].mean_iou < moved.trimaps[1].mean_iou < moved.mean_iou < 1
    assert moved.trimaps[0].pixels < moved.trimaps[1].pixels < moved.pixels
