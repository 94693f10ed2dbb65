"""What goes wrong for a person, through the real scripts: a named error in one line, nothing half-written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedet.runtime import read_spec

Model = Callable[..., Path]


def expect(done: subprocess.CompletedProcess[str], error: str, *parts: str, code: int = 1) -> None:
    """One line on stderr that begins with the error's name, the exit code, no traceback."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error [{error}]: "), done.stderr
    assert done.stderr.count("error [") == 1
    for part in parts:
        assert part in last


def nothing_in(folder: Path) -> bool:
    """No folder, or an empty one."""
    return not folder.exists() or not any(folder.iterdir())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole YOLO checkpoint with fresh weights."""
    pytest.importorskip("torch", reason="needs torch (extra train) to make a checkpoint")
    from edgedet.models import build, make_spec
    from edgedet.training.checkpoint import save_model

    model = build("yolo", 2, pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "fresh.safetensors"
    save_model(path, model.state_dict(), make_spec("yolo", model, ("thing", "other"), size=(64, 64)), {})
    return path


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder that cannot be made, also not by root: its parent is a file."""
    (tmp_path / "file").write_text("not a folder")
    return tmp_path / "file" / "out"


def test_missing_weights(cli: Any, tmp_path: Path) -> None:
    done = cli("edgedet-export", "--model", "yolo", "--weights", "absent.safetensors", "-o", tmp_path / "out")
    expect(done, "WeightsError", "absent.safetensors")
    assert nothing_in(tmp_path / "out")


def test_truncated_weights(cli: Any, checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    done = cli("edgedet-export", "--weights", cut, "-o", tmp_path / "out")
    expect(done, "WeightsError", "cut.safetensors")
    expect(cli("edgedet", "info", cut), "WeightsError", "cut.safetensors")
    assert nothing_in(tmp_path / "out")


def test_a_truncated_jpeg_as_a_source(cli: Any, tiny_model: Model, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    done = cli("edgedet-run", tiny_model(), "--source", tmp_path / "cut.jpg")
    expect(done, "ImageError", "cut.jpg")


def test_an_empty_calibration_folder(cli: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    options = ["--int8", "--calib-data", f"folder:{tmp_path / 'images'}", "-o", tmp_path / "out"]
    done = cli("edgedet-export", "--weights", checkpoint, *options)
    expect(done, "EmptyDataset", "images")
    assert nothing_in(tmp_path / "out")


def test_an_onnx_without_a_spec(cli: Any, tiny_model: Model, clip: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
    model = onnx.load(tiny_model())
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    for command in (["edgedet-run"], ["edgedet-bench"]):
        expect(cli(*command, tmp_path / "foreign.onnx", "--source", clip), "SpecError", "foreign.onnx")
    expect(cli("edgedet", "info", tmp_path / "foreign.onnx"), "SpecError", "foreign.onnx")


@pytest.mark.parametrize(
    ("script", "options"), [("edgedet-export", []), ("edgedet-train", ["--data", "voc:nowhere"])]
)
def test_an_unknown_model_gets_the_close_name(cli: Any, script: str, options: list[str]) -> None:
    done = cli(script, "--model", "yollo", *options)
    expect(done, "UnknownName", "'yollo'", "Did you mean 'yolo'?", code=2)


def test_an_output_folder_that_cannot_be_written(
    cli: Any, checkpoint: Path, tiny_model: Model, clip: Path, unwritable: Path
) -> None:
    expect(cli("edgedet-export", "--weights", checkpoint, "-o", unwritable), "OutputError", str(unwritable))
    options = ["--source", clip, "--json-lines", unwritable / "x.jsonl"]
    expect(cli("edgedet-run", tiny_model(), *options), "OutputError", "x.jsonl")
    options = ["--source", clip, "--frames", "10", "--rounds", "1", "--save-json", unwritable / "x.json"]
    expect(cli("edgedet-bench", tiny_model(), *options), "OutputError", "x.json")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(cli: Any, tiny_model: Model, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    options = ["--source", clip, "--json-lines", folder / "x.jsonl"]
    expect(cli("edgedet-run", tiny_model(), *options), "OutputError", "Permission denied")


@pytest.mark.parametrize("source", ["99", "/dev/video99", "rtsp://127.0.0.1:9/none"])
def test_a_camera_that_cannot_be_reached(cli: Any, tiny_model: Model, source: str) -> None:
    done = cli("edgedet-run", tiny_model(), "--source", source, "--reconnects", "0")
    expect(done, "SourceError")


def test_a_video_that_ends_in_corrupt_frames(cli: Any, tiny_model: Model, clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    index = data.rfind(b"moov") - 4  # the frames end where the index begins
    assert index > 0
    data[index - 2000 : index] = bytes(2000)
    (tmp_path / "corrupt.mp4").write_bytes(data)
    lines = tmp_path / "results.jsonl"
    done = cli("edgedet-run", tiny_model(), "--source", tmp_path / "corrupt.mp4", "--json-lines", lines)
    expect(done, "SourceError", "corrupt.mp4")
    # the results of the frames before it are whole
    assert 0 < len(lines.read_text().splitlines()) < 40


def test_a_video_cut_short(cli: Any, tiny_model: Model, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:3000])
    expect(cli("edgedet-run", tiny_model(), "--source", tmp_path / "cut.mp4"), "SourceError", "cut.mp4")


def test_a_plan_needs_its_gpu_and_says_so(cli: Any, tiny_model: Model, tmp_path: Path, clip: Path) -> None:
    spec = read_spec(tiny_model()).with_(build={"precision": "int8"})
    (tmp_path / "x.engine").write_bytes(b"ftrt" * 100 + spec.to_json().encode() + bytes(100))
    done = cli("edgedet-run", tmp_path / "x.engine", "--source", clip)
    expect(done, "EngineError", "x.engine is a TensorRT plan")
    (tmp_path / "x.engine").write_bytes(b"ftrt" * 100)
    done = cli("edgedet-run", tmp_path / "x.engine", "--source", clip)
    expect(done, "SpecError", "x.engine carries no edgedet spec")
