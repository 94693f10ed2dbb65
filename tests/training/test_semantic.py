"""edgedet-train on masks: windows of the images are learned from, the whole input is validated and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from edgedet.data import open_dataset  # noqa: E402
from edgedet.models import build, make_spec  # noqa: E402
from edgedet.training.checkpoint import load_model  # noqa: E402
from edgedet.training.loop import Trainer  # noqa: E402
from edgedet.training.processes import join  # noqa: E402
from edgedet.training.recipe import Recipe  # noqa: E402
from edgedet.training.run_folder import RunFolder  # noqa: E402

SMALL = ("--size", "64x96", "--batch", "2", "--epochs", "1", "--workers", "0", "--device", "cpu")


@pytest.mark.parametrize("model", ["fcn", "unet", "deeplabv3plus"])
def test_a_run_on_masks(cli: Any, masks: Path, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "run"
    done = cli(
        "edgedet-train",
        *("--model", model, "--data", f"masks:{masks}", "--split", "all", "--val-split", "all"),
        *(*SMALL, "--window", "32x64", "--scale", "1,2", "--loss", "dice+focal", "-o", str(folder), "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measure"] == "mIoU"
    recipe = json.loads((folder / "run.json").read_text())["settings"]["recipe"]
    assert recipe["window"] == [32, 64]
    assert recipe["scale"] == [1.0, 2.0]
    assert recipe["model"]["loss"] == "dice+focal"
    step = json.loads((folder / "steps.jsonl").read_text().splitlines()[0])
    assert {"dice", "focal"} <= step.keys()
    _, spec = load_model(folder / "best.safetensors")
    assert spec.input.size == (64, 96)
    assert "mIoU@masks:" in next(iter(spec.metrics))


def test_windows_are_what_is_trained_on(masks: Path, tmp_path: Path) -> None:
    data = open_dataset(f"masks:{masks}", "all")
    model = build("fcn", len(data.classes), pretrained=False)
    spec = make_spec("fcn", model, data.classes, size=(64, 96))
    with join("cpu") as processes:
        for window, expected in (((32, 64), (32, 64)), (None, (64, 96))):
            recipe = Recipe(batch=2, window=window)
            folder = RunFolder(tmp_path / str(window))
            trainer = Trainer(model, spec, data, None, recipe, folder, processes, workers=0)
            images, targets, _ = next(iter(trainer.batches))
            assert images.shape[2:] == expected
            assert targets[0].class_map is not None
            assert targets[0].class_map.shape == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scale", "2"), "--scale '2' is not LOW,HIGH"),
        (("--scale", "2,1"), "--scale '2,1' is not LOW,HIGH"),
        (("--scale", "0,1"), "--scale '0,1' is not LOW,HIGH"),
        (("--window", "big"), "--window 'big' is not HxW"),
        (("--option", "variant=4s"), "FCN variant"),
    ],
)
def test_windows_that_cannot_be(cli: Any, masks: Path, options: tuple[str, ...], said: str) -> None:
    done = cli("edgedet-train", "--model", "fcn", "--data", f"masks:{masks}", "--split", "all", *options)
    assert done.returncode in (1, 2)
    assert said in " ".join(done.stderr.split())
