"""Nothing to measure is no number: None, "not measured", and why."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from rich.console import Console

from edgedet.cli.main import run_verb
from edgedet.contract.errors import DataError
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.data import open_dataset
from edgedet.evaluation import evaluate, evaluate_semantic
from edgedet.evaluation.evaluate import match_classes
from edgedet.evaluation.report import class_table, map_class_table, map_summary_table, summary_table


def sees(image) -> Detections:
    box = np.array([[16, 16, 48, 48]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))


def shown(*tables) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


def test_only_ignored_objects(voc, obj):
    voc.add("a", obj("dog", 2, 2, 40, 40, difficult=1), obj("dog", 5, 5, 9, 9, difficult=1))
    data = open_dataset(f"voc:{voc.root}", classes=("dog", "cat"))
    metrics = evaluate(sees, data, progress=False)
    assert metrics.ap11 is metrics.ap_every is metrics.coco_ap is None
    assert metrics.best_score is metrics.best_f1 is None
    assert metrics.not_measured == "all 2 objects in 1 images are marked as ignored (difficult, or crowds)"
    raw = json.loads(metrics.to_json())
    assert raw["ap11"] is raw["ap_every"] is raw["best_f1"] is None
    assert raw["not_measured"] == metrics.not_measured


def test_no_object_on_the_images_looked_at(bright):
    data = open_dataset(f"voc:{bright}", "val", classes=("dog",))
    metrics = evaluate(sees, data, limit=1, progress=False)  # a dark image
    assert metrics.ap11 is None
    assert metrics.not_measured == "there is no object in 1 images"


def test_no_object_of_a_class_in_common(voc, obj):
    voc.add("a", obj("cat", 2, 2, 40, 40))
    data = open_dataset(f"voc:{voc.root}", classes=("dog", "cat"))
    metrics = evaluate(sees, data, classes=("dog",), progress=False)
    assert metrics.ap11 is None
    assert metrics.not_measured == "none of 1 objects in 1 images is of a class that the model knows"


def test_objects_that_are_not_found_are_measured(bright):
    data = open_dataset(f"voc:{bright}", "val", classes=("dog", "cat"))
    metrics = evaluate(lambda _: Detections.empty(), data, progress=False)
    assert metrics.ap11 == metrics.ap_every == metrics.best_f1 == 0
    assert metrics.best_score is None
    assert metrics.not_measured == ""


def test_tables_say_it(bright, voc, obj):
    voc.add("a", obj("dog", 2, 2, 40, 40, difficult=1))
    data = open_dataset(f"voc:{voc.root}", classes=("dog", "cat"))
    nothing = evaluate(sees, data, progress=False)
    something = evaluate(sees, open_dataset(f"voc:{bright}", "val", classes=("dog", "cat")), progress=False)
    for results in (
        {"a": nothing, "b": something},
        {"a": something, "b": nothing},
        {"a": nothing, "b": nothing},
    ):
        text = shown(summary_table(results), class_table(results))
        assert "not measured" in text
        assert not any(line.rstrip().endswith(("+0.00", "-0.00")) for line in text.splitlines())


@pytest.fixture
def void_masks(tmp_path):
    """Two images whose masks hold only the class "car"."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), np.full((20, 30), 2, np.uint8))
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    return open_dataset(f"masks:{tmp_path}", "all")


def test_no_pixel_of_a_class_in_common(void_masks):
    def predict(image) -> SegmentationMap:
        return SegmentationMap(np.zeros(image.shape[:2], np.uint8))

    metrics = evaluate_semantic(predict, void_masks, classes=("road", "sky"), trimaps=(2,), progress=False)
    assert (
        metrics.mean_iou is metrics.mean_dice is metrics.pixel_accuracy is metrics.trimaps[0].mean_iou is None
    )
    assert metrics.not_measured == "no pixel of 2 images has a class that model and data share (road, sky)"
    assert json.loads(metrics.to_json())["mean_iou"] is None
    text = shown(map_summary_table({"a": metrics, "b": metrics}), map_class_table({"a": metrics}))
    assert "not measured" in text
    assert "0.00" not in text
    seen = evaluate_semantic(predict, void_masks, classes=("road", "car"), progress=False)
    assert (seen.mean_iou, seen.not_measured) == (0, "")


def test_the_command_says_it(voc, obj, onnx_file, capsys):
    pytest.importorskip("openvino")
    voc.add("a", obj("dog", 2, 2, 40, 40, difficult=1), split="val")
    voc.add("b", obj("unicorn", 2, 2, 40, 40), split="val")
    models = [str(onnx_file("good.onnx")), str(onnx_file("off.onnx", shift=8.0))]
    assert run_verb("eval", [*models, "--data", f"voc:{voc.root}"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["good.onnx"] == ["not", "--", "--", "--", "--", "--"]  # "measured" stands below
    assert rows["off.onnx"] == ["not", "--", "--", "--", "--", "--", "--"]
    assert rows["measured"] == []
    assert "good.onnx: all 1 objects in 2 images are marked as ignored" in out
    # before the first image
    assert "left out: 1 of 2 objects (1 unknown class); the first: " in err
    assert run_verb("eval", [models[0], "--data", f"voc:{voc.root}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["ap11"] is None


@pytest.fixture
def named(bright):
    """A data set with these classes."""

    def make(*classes):
        data = open_dataset(f"voc:{bright}", "val", classes=("dog", "cat"))
        object.__setattr__(data, "classes", classes)
        return data

    return make


@pytest.mark.parametrize(
    ("model", "data", "mapping"),
    [
        ("a A - _ dog", "a A - _ dog", [0, 1, 2, 3, 4]),
        ("dog _ - A a", "a A - _ dog", [4, 3, 2, 1, 0]),
        ("Dog dog", "dog Dog", [1, 0]),
        ("DOG cat", "dog cat", [0, 1]),
        ("tv-monitor", "tv_monitor cat", [0]),
        ("dog DOG", "dog", [0, -1]),  # the other one has nobody left
        ("dog", "dog Dog", [0]),
        ("- dog", "_ dog", [-1, 1]),  # nothing is left of them to compare
        ("N/A N/A dog", "dog", [-1, -1, 0]),  # names that the data has not may repeat
    ],
)
def test_classes_are_matched_exactly_first(named, model, data, mapping):
    assert match_classes(model.split(), named(*data.split()))[0].tolist() == mapping


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("DOG cat", "dog Dog cat", r"model's 'DOG' and the data's 'dog' and 'Dog' differ only in case"),
        (
            "tv-set tv_set cat",
            "tvset cat",
            r"model's 'tv-set' and 'tv_set' and the data's 'tvset' differ only",
        ),
        ("dog dog", "dog", "has 2 classes called 'dog'"),
    ],
)
def test_names_that_cannot_be_told_apart(named, model, data, expected):
    with pytest.raises(DataError, match=expected):
        match_classes(model.split(), named(*data.split()))


def test_perfect_detections_of_classes_that_differ_by_case_score_100(tmp_path):
    names = ["a", "A", "-", "_", "dog"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for folder in ("images", "labels"):
        (tmp_path / folder / "val").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/val/a.png"), np.full((100, 500, 3), 90, np.uint8))
    rows = [f"{k} {0.1 + 0.2 * k:.1f} 0.5 0.1 0.5" for k in range(5)]
    (tmp_path / "labels/val/a.txt").write_text("\n".join(rows))
    data = open_dataset(f"yolo:{tmp_path}", "val")
    truth = data.truths[0]
    perfect = Detections(truth.boxes, np.ones(5, np.float32), truth.labels)
    metrics = evaluate(lambda _: perfect, data, classes=names, progress=False)
    assert metrics.ap11 == 1
    assert [c.ap11 for c in metrics.classes] == [1.0] * 5
    assert metrics.notes == ()
