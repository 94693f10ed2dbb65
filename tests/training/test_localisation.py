"""edgedet-train and edgedet-eval of a localizer: only images with one object, and that is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import ENVIRONMENT, train

BOX = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
OBJECT = f"<object><name>cat</name>{BOX}</object>"


@pytest.fixture
def crowded(voc: Path, tmp_path: Path) -> Path:
    """The small data set, two of its eight training images with a second object."""
    root = tmp_path / "VOC2007"
    shutil.copytree(voc, root)
    for name in (root / "ImageSets/Main/train.txt").read_text().split()[:2]:
        file = root / "Annotations" / f"{name}.xml"
        file.write_text(file.read_text().replace("</annotation>", f"{OBJECT}</annotation>"))
    return root


def test_a_run_and_its_evaluation(crowded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = train(crowded, folder, "--model", "localizer", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["measure"]) == (2 * 3, "mean IoU")  # 6 images, 2 a step
    assert "2 of 8 images left out, because they have not exactly one object" in done.stderr
    assert 0 <= result["best"] <= 1

    weights = str(folder / "best.safetensors")
    call = [sys.executable, "-m", "edgedet", "eval", weights, "--data", f"voc:{crowded}"]
    shown = subprocess.run(
        [*call, "--per-class"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    assert "4 images with one object" in shown.stdout
    assert f"{100 * result['best']:.2f}" in shown.stdout
    spec = subprocess.run(
        [*call, "--split", "train", "--json"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    found = json.loads(spec.stdout)["results"][0]
    assert found["images"] == 6
    images = {c["name"]: c["images"] for c in found["classes"] if c["images"]}
    assert images == {"cat": 3, "dog": 3}


def test_data_without_such_an_image_is_refused_before_anything_is_written(
    crowded: Path, tmp_path: Path
) -> None:
    for file in (crowded / "Annotations").glob("*.xml"):
        text = file.read_text()
        if OBJECT not in text:
            file.write_text(text.replace("</annotation>", f"{OBJECT}</annotation>"))
    folder = tmp_path / "run"
    done = train(crowded, folder, "--model", "localizer")
    assert done.returncode == 1
    assert "8 images, none with exactly one object" in done.stderr
    assert not folder.exists()
