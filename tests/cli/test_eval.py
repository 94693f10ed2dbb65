"""edgedet-eval on real files, through the command line."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from edgedet.cli.eval import labels
from edgedet.cli.main import run_verb
from edgedet.contract.errors import UsageError


@pytest.fixture
def models(onnx_file):
    pytest.importorskip("openvino")
    return [str(onnx_file("good.onnx")), str(onnx_file("off.onnx", shift=8.0))]


def test_side_by_side(models, bright, capsys):
    code = run_verb("eval", [*models, "--data", f"voc:{bright}", "--per-class"])
    out = capsys.readouterr().out
    assert code == 0, out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["good.onnx"][0] == "50.00"
    assert rows["off.onnx"][0] == "0.00"
    assert rows["off.onnx"][-1] == "-50.00"
    assert rows["dog"] == ["4", "0", "100.00", "0.00"]
    assert rows["mean"] == ["50.00", "0.00"]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_json(models, bright, capsys, engine):
    pytest.importorskip(engine)
    arguments = [models[0], "--data", f"voc:{bright}", "--engine", engine, "--limit", "4", "--json"]
    assert run_verb("eval", arguments) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["results"][0]["model"] == "good.onnx"
    assert raw["results"][0]["images"] == 4
    assert raw["problems"] == {"counts": {}, "list": []}


def test_exact_arithmetic(models, bright, capsys):
    arguments = [models[0], "--data", f"voc:{bright}", "--precision", "exact", "--json"]
    assert run_verb("eval", arguments) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["ap11"] == pytest.approx(0.5)
    for more, code, says in (
        (["--engine", "openvino"], 1, "Use the engine 'onnxruntime'"),
        (["--precision", "int4"], 2, "int4"),
    ):
        assert run_verb("eval", [*arguments, *more]) == code
        assert says in capsys.readouterr().err
    assert run_verb("eval", ["yolo", *arguments[1:]]) == 2
    assert "--precision is for ONNX files" in capsys.readouterr().err


def test_a_checkpoint(bright, tmp_path, capsys):
    pytest.importorskip("torch")
    from edgedet.models import build, make_spec
    from edgedet.training.checkpoint import save_model

    model = build("yolo", 2, pretrained=False)
    spec = make_spec("yolo", model, ("dog", "cat"), size=(64, 64))
    path = tmp_path / "last.safetensors"
    save_model(path, model.state_dict(), spec, {})
    assert run_verb("eval", [str(path), "--data", f"voc:{bright}", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["results"][0]["images"] == 8
    assert run_verb("eval", [str(path), "--data", f"voc:{bright}", "--engine", "openvino"]) == 2
    assert "openvino cannot run the checkpoint" in capsys.readouterr().err


def test_a_split_that_cannot_be_compared_is_named(models, bright, tmp_path, capsys):
    root = tmp_path / "VOC2007"
    root.symlink_to(bright)
    assert run_verb("eval", [models[0], "--data", f"voc:{root}"]) == 0
    out = capsys.readouterr().out
    assert "is not VOC2007's own: not comparable with published figures" in out


def test_dirty_labels_are_shown(models, bright, tmp_path, capsys):
    import shutil

    root = shutil.copytree(bright, tmp_path / "dirty")
    file = root / "Annotations" / "01.xml"
    file.write_text(file.read_text().replace("<xmax>48", "<xmax>17"))
    assert run_verb("eval", [models[0], "--data", f"voc:{root}"]) == 0
    out = capsys.readouterr().out
    assert "1 zero area" in out
    assert "01.xml:3: zero area" in out


def test_what_is_said_of_the_data_is_of_the_images_looked_at(models, bright, tmp_path, capsys):
    import shutil

    root = shutil.copytree(bright, tmp_path / "dirty")
    for name in ("01", "03", "04"):  # of 8; with --limit 2, 00 and 04 are looked at
        file = root / "Annotations" / f"{name}.xml"
        corners = "<xmin>9</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
        lost = f"<object><name>dog</name><bndbox>{corners}</bndbox></object>"
        file.write_text(file.read_text().replace("</annotation>", f"{lost}</annotation>"))
    (root / "JPEGImages" / "07.jpg").write_bytes(b"nothing")
    arguments = [models[0], "--data", f"voc:{root}", "--json"]
    kinds = "zero area"
    for limit, found in ((["--limit", "2"], {kinds: 1}), ([], {kinds: 3, "broken image": 1})):
        assert run_verb("eval", [*arguments, *limit]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["problems"]["counts"] == found
        objects = "1 of 2 objects" if limit else "3 of 8 objects"
        assert f"{objects} ({found[kinds]} zero area)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nothing.onnx"], 1, "EngineError"),
        (["nothing.safetensors"], 1, "WeightsError"),
        (["yoloo"], 2, "UnknownName"),
        (["GOOD", "--split", "vall"], 2, "Did you mean 'val'"),
        (["GOOD", "--engine", "torch"], 2, "torch runs checkpoints"),
        (["GOOD", "GOOD"], 2, "given twice"),
        (["GOOD", "--engine", "tensorflow"], 2, "tensorflow"),
        (["GOOD", "--limit", "0"], 2, "limit"),
        ([], 2, "MODEL"),
    ],
)
def test_errors_are_one_line(models, bright, capsys, monkeypatch, tmp_path, arguments, code, expected):
    monkeypatch.chdir(tmp_path)
    arguments = [models[0] if a == "GOOD" else a for a in arguments]
    assert run_verb("eval", [*arguments, "--data", f"voc:{bright}"]) == code
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err


def test_missing_data(models, capsys):
    assert run_verb("eval", [models[0], "--data", "voc:/no/such/place"]) == 1
    assert "DataError" in capsys.readouterr().err


def test_labels_tell_files_apart():
    assert labels(["a/x.onnx", "a/y.onnx"]) == ["x.onnx", "y.onnx"]
    assert labels(["a/x.onnx", "b/x.onnx"]) == ["a/x.onnx", "b/x.onnx"]
    with pytest.raises(UsageError, match="given twice"):
        labels(["a/x.onnx", "a/x.onnx"])


@pytest.fixture
def masks(tmp_path):
    """One image of four greys in equal stripes, with their classes as the truth."""
    levels = np.repeat(np.array([32, 96, 160, 224], np.uint8), 12)[None].repeat(32, axis=0)
    for folder, picture in (("images", levels), ("masks", levels // 64)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / folder / "a.png"), picture)
    (tmp_path / "data" / "classes.txt").write_text("black\ndark\nbright\nwhite\n")
    return f"masks:{tmp_path / 'data'}"


@pytest.fixture
def mappers(segmenter):
    # the border between black and dark moved beyond 96 of 255: what is dark is said to be black
    return [str(segmenter("eval-good")), str(segmenter("eval-off", shift=0.2))]


def test_semantic_models_side_by_side(mappers, masks, capsys):
    arguments = [*mappers, "--data", masks, "--split", "all", "--per-class", "--trimap", "2"]
    assert run_verb("eval", arguments) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    # black and dark are said to be black, bright dark, white bright: 1/2, 0, 0, 0
    assert rows["eval-good.onnx"] == ["100.00", "100.00", "100.00", "100.00"]
    assert rows["eval-off.onnx"][:3] == ["12.50", "16.67", "25.00"]
    assert rows["eval-off.onnx"][-1] == "-87.50"
    assert rows["black"] == ["25.00", "%", "100.00", "/", "100.00", "50.00", "/", "66.67"]
    assert rows["white"] == ["25.00", "%", "100.00", "/", "100.00", "0.00", "/", "0.00"]
    assert "IoU within 2 px" in out


def test_semantic_json(mappers, masks, capsys):
    assert run_verb("eval", [mappers[1], "--data", masks, "--split", "all", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["mean_iou"] == pytest.approx(0.125)
    assert [c["name"] for c in found["classes"]] == ["black", "dark", "bright", "white"]


def test_models_and_data_of_different_tasks_are_named_errors(models, mappers, masks, bright, capsys):
    for model, data, words in (
        (models[0], masks, "DataError"),
        (mappers[0], f"voc:{bright}", "DataError"),
    ):
        split = "all" if data == masks else "val"
        assert run_verb("eval", [model, "--data", data, "--split", split]) == 1
        assert words in capsys.readouterr().err
    assert run_verb("eval", [models[0], "--data", f"voc:{bright}", "--trimap", "3"]) == 2
    assert "--trimap is for masks" in capsys.readouterr().err
