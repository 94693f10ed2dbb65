"""`edgedet-export` from its arguments to its files and exit code, on a small real model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.calib import Range, Scales
from edgedet.cli.main import run_verb
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.plan_spec import read_plan_spec


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def export(exported, out: Path, *arguments: str) -> int:
    return run_verb("export", ["--weights", str(exported.path), "-o", str(out), *arguments])


@pytest.fixture(scope="module")
def int8(exported, pictures, tmp_path_factory) -> tuple[Path, int]:
    """One INT8 export for OpenVINO, calibrated on pictures: its folder and exit code."""
    out = tmp_path_factory.mktemp("out")
    calibration = ["--calib-data", f"folder:{pictures}", "--calib-images", "6", "--min-agreement", "30"]
    code = export(exported, out, "--int8", "--target", "openvino", *calibration)
    return out, code


def test_int8_for_openvino(int8, exported):
    pytest.importorskip("openvino")
    out, code = int8
    assert code == 0
    assert files(out) == [
        "yolo-int8.onnx",
        "yolo-int8.report.html",
        "yolo-int8.report.json",
        "yolo.calibration.json",
        "yolo.onnx",
    ]
    plain, typed = (read_spec(out / name) for name in ("yolo.onnx", "yolo-int8.onnx"))
    assert (plain.precision, typed.precision) == ("fp32", "int8")
    assert plain.metrics == {"AP50_11point@noise": 0.5}
    assert typed.metrics == {}, "what FP32 reached is not what INT8 reaches"
    assert "6 images" in typed.provenance.calibration
    assert typed.provenance.weights_sha256 == exported.spec.provenance.weights_sha256
    assert (out / "yolo-int8.onnx").stat().st_size < 0.35 * (out / "yolo.onnx").stat().st_size

    report = json.loads((out / "yolo-int8.report.json").read_text())
    assert report["facts"]["quantisation"]["int8 convolutions"] == 54
    assert report["facts"]["calibration"]["images"] == 6
    assert "4 images held out" in report["facts"]["accuracy"]["data"]
    assert [r["name"] for r in report["rows"]][0::2][:2] == ["FP32", "INT8"] or len(report["rows"]) == 2
    assert all(0 < r["p50"] <= r["p99"] for r in report["rows"])
    assert report["verdict"]["passed"] is True
    assert set(report["wrote"]) == set(files(out))
    page = (out / "yolo-int8.report.html").read_text()
    assert "INT8" in page
    assert "<script" not in page

    images = np.random.default_rng(0).normal(0, 1, (1, 3, *exported.spec.input.size)).astype(np.float32)
    with open_engine(out / "yolo-int8.onnx") as engine:
        found = engine.infer({"images": images})
    assert found["boxes"].shape == (1, 48, 4)


def test_the_same_cache_serves_the_plan(int8, exported, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    cache = str(int8[0] / "yolo.calibration.json")
    plan = ["--target", "tensorrt-rtx", "--sm", "86,89"]
    code = export(exported, tmp_path, "--int8", *plan, "--calib-cache", cache)
    shown = capsys.readouterr().out
    assert code == 0
    assert "convolutions in the plan: 54 int8; 54 int8 expected" in shown
    assert "gate: not measured" in shown
    assert "no images to measure on" in shown
    assert {"yolo-int8-rtx.plan", "yolo-int8-rtx.onnx"} <= set(files(tmp_path))
    spec = read_plan_spec(tmp_path / "yolo-int8-rtx.plan")
    assert spec.build["compute_capabilities"] == "86,89"
    assert spec.decode.kind == "yolo"
    assert read_spec(tmp_path / "yolo-int8-rtx.onnx") == spec.with_(build={})


@pytest.mark.parametrize(
    "keep", [pytest.param(False, id="dropped"), pytest.param(True, id="kept", marks=pytest.mark.slow)]
)
def test_the_gate_refuses_bad_ranges(int8, exported, pictures, tmp_path, capsys, keep):
    scales = Scales.load(int8[0] / "yolo.calibration.json")
    cut = {k: Range(0.02 * r.low, 0.02 * r.high) for k, r in scales.ranges.items()}
    bad = tmp_path / "bad.json"
    replace(scales, ranges=cut).save(bad)
    out = tmp_path / "out"
    data = ["--calib-cache", str(bad), "--eval-data", f"folder:{pictures}"]
    code = export(exported, out, "--int8", "--target", "onnxruntime", *data, *["--keep-failed"] * keep)
    captured = capsys.readouterr()
    assert code == 3
    assert "AccuracyGateFailed" in captured.err
    assert "FAILED" in captured.out
    assert "with 1 layers in float" in captured.out, "the sensitivity search was tried"
    kept = ["yolo-int8-failed.onnx"] * keep
    assert files(out) == [*kept, "yolo-int8.report.html", "yolo-int8.report.json", "yolo.onnx"]
    report = json.loads((out / "yolo-int8.report.json").read_text())
    assert report["verdict"]["passed"] is False
    assert len(report["sensitivity"]) == 54


def test_ranges_of_other_weights_are_refused(int8, exported, tmp_path, capsys):
    cache = str(int8[0] / "yolo.calibration.json")
    assert export(exported, tmp_path, "--int8", "--size", "32x64", "--calib-cache", cache) == 1
    assert "error [CalibrationError]" in capsys.readouterr().err
    assert files(tmp_path) == []


EXPORT = "import sys; from edgedet.cli.main import run_verb; sys.exit(run_verb('export', sys.argv[1:]))"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_in_the_middle_nothing_is_taken_for_whole(exported, pictures, tmp_path):
    arguments = [
        "--weights",
        str(exported.path),
        "--int8",
        "--min-agreement",
        "0",
        "-o",
        str(tmp_path / "out"),
    ]
    arguments += ["--calib-data", f"folder:{pictures}", "--target", "onnxruntime"]
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", EXPORT, *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    # the moment FP32 lies in the hidden folder, the export is in its middle
    while not list(out.glob(".edgedet-export.*.partial/yolo.onnx")):
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = files(out)
    assert any(n.startswith(".edgedet-export.") for n in left)
    assert "yolo-int8.onnx" not in left
    for name in ("yolo.onnx", "yolo.calibration.json"):  # each either absent or whole
        if name in left:
            read_spec(out / name) if name.endswith(".onnx") else Scales.load(out / name)

    assert run_verb("export", arguments) == 0
    assert not [n for n in files(out) if "partial" in n]
    assert read_spec(out / "yolo-int8.onnx").precision == "int8"
    shutil.rmtree(out)
