"""The tool that packs trained weights: what was not measured is not a figure, and is said before training."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("model_card")


def test_a_class_without_objects_is_not_the_worst(card: ModuleType) -> None:
    figures = {"cat": 0.5, "bus": None, "dog": 0.25, "cow": 0.75}
    found = {"classes": [{"name": name, "ap11": value} for name, value in figures.items()]}
    table, worst = card._per_class(found, found, "ap11", "AP")
    assert worst == "dog score lowest. "
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["cow", "cat", "dog", "bus"]
    assert "| bus | -- | -- |" in table


MEASURED: dict[str, dict[str, object]] = {
    "localizer": {"mean_iou": 0.6212, "class_accuracy": 0.7, "localised": 0.55},
    "mask-rcnn": {
        "ap11": 0.8,
        "coco_ap50": 0.8712,
        "coco_ap": 0.5,
        "mask_ap50": 0.7613,
        "mask_ap": 0.4,
        "best_score": 0.4567,
        "best_f1": 0.8,
    },
}


@pytest.mark.parametrize("model", MEASURED)
def test_a_card_says_what_is_measured_of_its_task_and_how_to_repeat_the_run(
    card: ModuleType, model: str
) -> None:
    text = _text(card, model, "voc:VOC2007 train")
    assert f"tools/train_weights {model} --data voc:PATH --processes 2 --split val -- --epochs 9\n" in text
    assert ("62.12" in text) if model == "localizer" else ("76.13" in text and "87.12" in text)
    assert ("from score 0.45" in text) == (model == "mask-rcnn")
    assert "dog score lowest" in text


def test_a_card_says_what_was_frozen_and_which_weights_these_are(card: ModuleType) -> None:
    text = _text(card, "mask-rcnn", "voc:VOC2007 train", last=True, frozen=["backbone", "neck"])
    assert "**Recipe.** 9 epochs, the last one's weights, batch 16," in text
    assert "backbone and neck left as they were" in text
    assert "--split val --last -- --epochs 9\n" in text


def test_a_card_says_what_the_gate_left_in_float(card: ModuleType) -> None:
    said = "the gate left in float: 10 of 76 convolutions for openvino."
    assert said in _text(card, "localizer", "voc:VOC2007 train", floats=10)
    assert "left in float" not in _text(card, "localizer", "voc:VOC2007 train")


def _text(
    card: ModuleType, model: str, trained_on: str, *, last: bool = False, floats: int = 0, **more: object
) -> str:
    data = {"data": "voc:VOC2007 val", "images": 7, "notes": []}
    classes = [{"name": "cat", "ap11": 0.9, "mean_iou": 0.9}, {"name": "dog", "ap11": 0.5, "mean_iou": 0.5}]
    found = MEASURED[model] | data | {"classes": classes}
    recipe = {"epochs": 9, "batch": 16, "lr": 1e-3, "backbone_lr": 0.3, "weight_decay": 0.02, "ema": 0.99}
    settings = {
        "model": model,
        "data": trained_on,
        "data_sha256": "1" * 64,
        "weights_sha256": "",
        "seed": 0,
        "size": [320, 320],
        "processes": 2,
        "recipe": recipe | {"model": {}} | more,
    }
    run = {
        "settings": settings,
        "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
        "versions": {"torch": "2"},
        "command": ["edgedet", "train", "--model", model, "--data", "voc:/x", "--epochs", "9", "-o", "/y"],
    }
    measured = {"PyTorch FP32": found, "openvino INT8": found}
    text: str = card.text(run, measured, "", {"openvino": (floats, 76)}, last=last)
    return text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "nowhere"), "nowhere"),
        (("--notes", "nowhere.md"), "nowhere.md"),
    ],
)
def test_what_packing_needs_is_looked_at_before_training(
    voc: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    call = [sys.executable, str(TOOLS / "train_weights"), "yolo", "--data", f"voc:{voc}", *options]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_card_names_all_the_data(card: ModuleType) -> None:
    sets = ["voc:VOC2007 train", "coco:own train", "voc:VOC2012X train"]
    assert card._options_of(sets) == "--data voc:VOC2007 --data coco:own --data voc:VOC2012X"
    assert card._options_of(sets[:1]) == "--data voc:PATH"
    text = _text(card, "mask-rcnn", " + ".join(sets), mosaic=0.125, letterbox=0.25, mild_epochs=5)
    assert "12.5 % of the images mosaics, 25 % of the others with bars, 5 epochs at the end" in text
    assert "voc:VOC2007 train: PASCAL VOC2007" in text
    assert "coco:own train: see its own" in text
    assert "voc:VOC2012X train: 1915 more photos" in text
    command = ["edgedet", "train", "--data", "voc:/a", "--data", "voc:/c", "--seed", "3"]
    assert card.options(command) == ["--seed", "3"]
