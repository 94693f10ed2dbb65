"""`edgedet-bench --all` from its arguments to its files: every detector there is, small and untrained."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgedet.bench.scores
from edgedet import weights
from edgedet.bench.artifacts import FAMILY, detectors
from edgedet.cli.main import run_verb
from edgedet.contract.proposals import CachedProposer

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edgedet.models import build, entry, make_spec  # noqa: E402
from edgedet.training.checkpoint import save_model  # noqa: E402

SIZE = (64, 128)
SMALL = {"width": 16, "hidden": 32, "size": SIZE, "proposals": 20, "rows": 10, "side": 32}
NAMES = ("cat", "dog")
LEFT = ("ssd", "yolo")
"""What is not exported before: the comparison does it."""


def checkpoint(name: str, folder: Path) -> Path:
    """Random weights, as small as the model's options allow."""
    module, _, attribute = entry(name).target.partition(":")
    known = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    options: dict[str, Any] = {k: v for k, v in SMALL.items() if k in known}
    classes = ("person",) if entry(name).task == "instance" else NAMES
    torch.manual_seed(0)
    model = build(name, len(classes), pretrained=False, **options)
    path = folder / f"{name}.safetensors"
    save_model(path, model.state_dict(), make_spec(name, model, classes, size=SIZE), options)
    return path


def pictures(root: Path) -> tuple[str, str]:
    """(voc:, coco:) the same 6 pictures with a rectangle; its class in turn; its mask only in COCO's form."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names, images, marks = [], [], []
    for i in range(6):
        image = cv2.resize(rng.integers(60, 120, (8, 16, 3), np.uint8), (160, 96))
        x, y = 20 + 10 * i, 12 + 4 * i
        cv2.rectangle(image, (x, y), (x + 40, y + 30), (20, 40, 230), cv2.FILLED)
        names.append(f"{i:02}")
        cv2.imwrite(str(root / "JPEGImages" / f"{names[-1]}.jpg"), image)
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 41}</xmax><ymax>{y + 31}</ymax>"
        label = (*NAMES, "person")[i % 3]
        (root / "Annotations" / f"{names[-1]}.xml").write_text(
            "<annotation><size><width>160</width><height>96</height></size><object>"
            f"<name>{label}</name><difficult>0</difficult><bndbox>{box}</bndbox></object></annotation>"
        )
        images.append({"id": i, "file_name": f"JPEGImages/{names[-1]}.jpg", "width": 160, "height": 96})
        polygon = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
        marks.append(
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [x, y, 40, 30], "iscrowd": 0, "area": 1200}
            | {"segmentation": [polygon]}
        )
    for split in ("train", "val"):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names))
    made = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "person"}]}
    (root / "masks.json").write_text(json.dumps(made))
    return f"voc:{root}", f"coco:{root / 'masks.json'}"


@pytest.mark.slow
def test_every_detector_is_exported_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "ROOT", tmp_path / "none")  # what ships is too large for this
    voc, coco = pictures(tmp_path / "VOC")
    out = tmp_path / "out"
    given = {name: checkpoint(name, tmp_path) for name in detectors()}
    before = {}
    for name, path in given.items():
        if name not in LEFT:
            arguments = ["--model", name, "--weights", str(path), "--int8", "--target", "onnxruntime"]
            arguments += ["--calib-data", voc, "--calib-images", "4", "--min-agreement", "0"]
            code = run_verb("export", [*arguments, "--accept-unmeasured", "-o", str(out)])
            said = capsys.readouterr()
            assert code == 0, said.err
            before[name] = (out / f"{name}-int8.onnx").stat().st_mtime_ns

    arguments = ["--all", "--data", voc, "--mask-data", coco, "--limit", "5", "--engine", "onnxruntime"]
    arguments += ["--rounds", "1", "--frames", "10", "-o", str(out)]
    for name, path in given.items():
        arguments += ["--weights", f"{name}={path}"]
    code = run_verb("bench", arguments)
    said = capsys.readouterr()
    found = json.loads((out / "comparison.json").read_text())

    # what was there is used again; what was not is exported by the usual gate, on as many images
    assert {n: (out / f"{n}-int8.onnx").stat().st_mtime_ns for n in before} == before
    rows = {(d["detector"], d["precision"]): d for d in found["detectors"]}
    assert [n for n, p in rows if p == "fp32"] == detectors()
    assert {n for n, p in rows if p == "int8"} >= set(before)
    for name in LEFT:
        report = json.loads((out / f"{name}-int8.report.json").read_text())
        wrote = f"{name}-int8.onnx" in report["wrote"]
        assert ((name, "int8") in rows) is wrote
        assert (f"{name}, INT8" in [m["what"] for m in found["missing"] if m["failed"]]) is not wrote
        assert "5 of 6 images" in json.dumps(report)
        assert f"{name} for onnxruntime: exporting" in said.err
    assert code == int(any(m["failed"] for m in found["missing"]))

    for (name, _), row in rows.items():
        one, accuracy = row["speed"]["image_ms"], row["accuracy"]
        assert accuracy["images"] == 5 and accuracy["ap11"] is not None
        outside = name in FAMILY[:2]
        assert (row["proposals"] is not None) is outside
        assert ("proposals" in one["steps"]) is outside
        assert (one["without_proposals"] < one["whole"]) is outside
        assert (row["parts"] is not None) is (name == "rcnn")
        masks = row["accuracy_with_masks"]
        assert (masks is not None) is (name == "mask-rcnn")
        if masks:
            assert accuracy["classes"] == ["person"] and accuracy["of"] == 3
            assert masks["images"] == 5 and masks["mask_ap50"] is not None
    assert {(f["system"], f["baseline"]) for f in found["family"]} == {
        ("fast-rcnn", "rcnn"),
        ("faster-rcnn", "rcnn"),
        ("faster-rcnn", "fast-rcnn"),
    }
    assert max(len(line) for line in said.out.splitlines() if not line.startswith("wrote ")) <= 100
    for text in ("R-CNN part by part", "With masks", "* mask-rcnn: AP over 1 of the 3 classes (person)"):
        assert text in said.out and text.replace("*", "\\*") in (out / "comparison.md").read_text()
    assert (out / "comparison.svg").stat().st_size > 10_000

    # again: nothing is exported, proposed or evaluated, only timed
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(edgedet.bench.scores, "evaluate", never)
    monkeypatch.setattr(CachedProposer, "__call__", never)
    assert run_verb("bench", [*arguments, "--json"]) == code
    said = capsys.readouterr()
    again = json.loads(said.out)
    assert [d["accuracy"] for d in again["detectors"]] == [d["accuracy"] for d in found["detectors"]]
    assert "exporting" not in said.err


def test_what_cannot_be_compared_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voc, _ = pictures(tmp_path / "VOC")
    out = ["-o", str(tmp_path / "out")]
    for arguments, code, says in (
        ([], 2, "--all needs data to measure accuracy on. Give --data voc:PATH"),
        (["--data", "voc:nowhere"], 1, "voc:nowhere does not exist"),
        (["--data", f"folder:{tmp_path / 'VOC/JPEGImages'}"], 1, "has no boxes to compare detectors on"),
        (["--data", voc, "--mask-data", voc], 1, "has no mask for each object"),
        (["--data", voc, "--weights", "yolo=none.safetensors"], 1, "Cannot read none.safetensors"),
        (["--data", voc, "--picture", "a.xyz"], 2, "Cannot draw a.xyz"),
        (["--data", voc, "--engine", "openvno"], 2, "Did you mean 'openvino'"),
    ):
        assert run_verb("bench", ["--all", *arguments, *out]) == code
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    monkeypatch.setattr(weights, "ROOT", tmp_path / "none")
    assert run_verb("bench", ["--all", "--data", voc, *out]) == 1
    assert "No detector has weights. Give some: --weights NAME=FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
