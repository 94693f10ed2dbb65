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

import cv2
import numpy as np
import pytest

from edgedet.calib import Range, Scales
from edgedet.cli.main import run_verb
from edgedet.export.accuracy import agreement, open_data
from edgedet.export.graph import to_bytes, with_spec
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.training.checkpoint import load_model, save_model


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
    for spec in (plain, typed):  # on a CPU the graph normalises
        assert (spec.input.dtype, spec.input.layout, spec.input.colour) == ("uint8", "NHWC", "BGR")
    assert plain.metrics == {"AP50_11point@noise": 0.5}
    assert typed.metrics == {}, "what FP32 reached is not what INT8 reaches"
    assert "6 images" in typed.provenance.calibration
    assert typed.provenance.weights_sha256 == exported.spec.provenance.weights_sha256
    assert (out / "yolo-int8.onnx").stat().st_size < 0.35 * (out / "yolo.onnx").stat().st_size

    report = json.loads((out / "yolo-int8.report.json").read_text())
    assert report["facts"]["quantisation"]["int8 convolutions"] == 54
    assert report["facts"]["calibration"]["images"] == 6
    assert "4 images held out" in report["facts"]["accuracy"]["data"]
    rows = {r["name"]: r for r in report["rows"]}
    assert [n for n in rows if n != "BF16"] == ["FP32", "INT8 exact", "INT8"]
    assert all(0 < r["p50"] <= r["p99"] for n, r in rows.items() if n != "INT8 exact")
    # what runs here and what is written, side by side; the gate judges what runs
    exact = rows["INT8 exact"]["accuracy"]
    assert rows["INT8 exact"]["p50"] is None
    assert exact == pytest.approx(report["facts"]["accuracy"]["in exact arithmetic"], abs=1e-3)
    assert exact == pytest.approx(rows["INT8"]["accuracy"], abs=10)
    assert report["facts"]["accuracy"]["measured with"] == "OpenVINO CPU int8"
    assert report["verdict"]["passed"] is True
    assert set(report["wrote"]) == set(files(out))
    page = (out / "yolo-int8.report.html").read_text()
    assert "INT8" in page
    assert "<script" not in page

    images = np.random.default_rng(0).integers(0, 256, (1, *exported.spec.input.size, 3), np.uint8)
    with open_engine(out / "yolo-int8.onnx") as engine:
        found = engine.infer({"images": images})
    assert found["boxes"].shape == (1, 48, 4)


def test_the_same_cache_serves_the_plan(int8, exported, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    cache = str(int8[0] / "yolo.calibration.json")
    plan = ["--target", "tensorrt-rtx", "--sm", "86,89"]
    code = export(exported, tmp_path, "--int8", *plan, "--calib-cache", cache, "--accept-unmeasured")
    shown = capsys.readouterr().out
    assert code == 0
    assert "convolutions in the plan: 54 int8; 54 int8 expected" in shown
    assert "gate: not measured" in shown
    assert "no images to measure on" in shown
    assert {"yolo-int8-rtx.plan", "yolo-int8-rtx.onnx"} <= set(files(tmp_path))
    spec = read_plan_spec(tmp_path / "yolo-int8-rtx.plan")
    assert spec.build["compute_capabilities"] == "86,89"
    assert spec.decode.kind == "yolo"
    assert (spec.input.dtype, spec.input.layout) == ("float32", "NCHW")
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


def test_a_plan_is_judged_in_exact_arithmetic(int8, exported, pictures, tmp_path):
    """Its INT8 runs on a GPU: what this CPU's INT8 kernels make of its weights says nothing."""
    cache = str(int8[0] / "yolo.calibration.json")
    data = ["--calib-cache", cache, "--eval-data", f"folder:{pictures}", "--min-agreement", "0"]
    assert export(exported, tmp_path, "--int8", "--target", "tensorrt", *data) == 0
    report = json.loads((tmp_path / "yolo-int8-tensorrt.report.json").read_text())
    assert report["facts"]["accuracy"]["measured with"] == "ONNX Runtime CPU int8 exact"
    assert [r["name"] for r in report["rows"]] == ["FP32", "INT8"], "there is but one arithmetic"

    with open_engine(tmp_path / "yolo.onnx", engine="onnxruntime") as plain:
        measure = agreement(plain, open_data(f"folder:{pictures}", "val"))
        assert measure is not None
    file = tmp_path / "yolo-int8-tensorrt.onnx"
    with open_engine(file, engine="onnxruntime", precision="exact") as exact:
        assert report["verdict"]["quantised"] == pytest.approx(measure(exact))


def black(folder: Path, count: int = 12) -> Path:
    """As a camera with its cap on gives them: black, with a little noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 3, (96, 144, 3), np.uint8))
    return folder


@pytest.mark.parametrize("kind", ["no pictures", "black pictures"])
def test_what_nobody_measured_is_not_written(int8, exported, tmp_path, capsys, kind):
    plenty = load_model(exported.path)
    blind = tmp_path / "blind.safetensors"  # finds nothing anywhere: no score reaches the threshold
    spec = plenty[1].with_(thresholds=replace(plenty[1].thresholds, score=1.0))
    save_model(blind, plenty[0].state_dict(), spec, {"width": 32})
    if kind == "no pictures":
        data = ["--calib-cache", str(int8[0] / "yolo.calibration.json")]
        why = "no images to measure on"
    else:
        data = ["--calib-data", f"folder:{black(tmp_path / 'black')}"]
        why = "FP32 finds nothing on 12 images that it was calibrated on"
    common = ["--weights", str(blind), "--int8", "--target", "onnxruntime", *data]
    out = tmp_path / "out"
    assert run_verb("export", [*common, "-o", str(out)]) == 3
    captured = capsys.readouterr()
    assert "error [AccuracyGateFailed]: The accuracy of INT8 was not measured" in captured.err
    assert why in captured.err
    assert "--accept-unmeasured" in captured.err
    assert "gate: not measured" in captured.out
    assert "yolo.onnx" in files(out)
    assert not [n for n in files(out) if "int8" in n and not n.startswith("yolo-int8.report.")]
    report = json.loads((out / "yolo-int8.report.json").read_text())
    assert report["verdict"]["passed"] is None
    assert why in report["verdict"]["why"]
    if kind == "black pictures":
        assert "12 of 12 calibration images show nothing" in captured.out

    assert run_verb("export", [*common, "-o", str(out), "--accept-unmeasured"]) == 0
    assert read_spec(out / "yolo-int8.onnx").metrics == {}


def test_a_refusal_leaves_no_older_int8_under_its_name(int8, exported, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "yolo-int8.onnx").write_bytes(b"older")
    (out / "yolo-int8-rtx.onnx").write_bytes(b"another target's")
    cache = str(int8[0] / "yolo.calibration.json")
    arguments = ["--int8", "--target", "onnxruntime", "--calib-cache", cache]
    assert export(exported, out, *arguments) == 3
    note = "yolo-int8.onnx of an earlier export does not belong to these files: now yolo-int8-stale.onnx"
    assert note in capsys.readouterr().out
    assert not (out / "yolo-int8.onnx").exists()
    assert (out / "yolo-int8-stale.onnx").read_bytes() == b"older"
    assert (out / "yolo-int8-rtx.onnx").read_bytes() == b"another target's"
    report = json.loads((out / "yolo-int8.report.json").read_text())
    assert note in report["notes"]
    assert "yolo-int8.onnx" not in report["wrote"]


def test_files_of_other_weights_in_the_folder_are_said(exported, tmp_path, capsys):
    spec = exported.graphs.decoded_spec
    graph = exported.graphs.decoded()
    for name, sha in (("same", spec.provenance.weights_sha256), ("other", "0" * 64)):
        made = with_spec(graph, spec.with_(provenance=replace(spec.provenance, weights_sha256=sha)))
        (tmp_path / f"yolo-{name}.onnx").write_bytes(to_bytes(made))
    (tmp_path / "yolo-broken.onnx").write_bytes(b"no ONNX")
    assert export(exported, tmp_path, "--target", "onnxruntime") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "of an earlier export" in line]
    assert len(notes) == 1
    assert "yolo-other.onnx, of an earlier export, has other weights" in notes[0]


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


KILLED = """
import os, signal, sys
from edgedet.cli.main import run_verb
from edgedet.export.staging import Staging
publish, left = Staging.publish, int(sys.argv[1])
def killed(self, name):
    global left
    path = publish(self, name)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return path
Staging.publish = killed
sys.exit(run_verb("export", sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_between_two_files_no_other_weights_lie_beside_each_other(exported, tmp_path):
    model, spec = load_model(exported.path)
    state = model.state_dict()
    state["head.3.bias"] = state["head.3.bias"] + 0.01
    other, out = tmp_path / "other.safetensors", tmp_path / "out"
    save_model(
        other, state, spec.with_(provenance=replace(spec.provenance, weights_sha256="")), {"width": 32}
    )
    arguments = ["--fp16", "--target", "onnxruntime", "--accept-unmeasured", "-o", str(out)]
    assert run_verb("export", [*arguments, "--weights", str(exported.path)]) == 0
    first = read_spec(out / "yolo.onnx").provenance.weights_sha256
    again = [*arguments, "--weights", str(other)]
    for after, there in ((1, ["yolo-fp16-stale.onnx", "yolo.onnx"]), (2, ["yolo-fp16.onnx", "yolo.onnx"])):
        done = subprocess.run([sys.executable, "-c", KILLED, str(after), *again], stdout=subprocess.DEVNULL)
        assert done.returncode == -signal.SIGKILL
        assert set(there) <= {n for n in files(out) if n.endswith(".onnx")}
        assert read_spec(out / "yolo.onnx").provenance.weights_sha256 != first
        if after == 1:
            assert not (out / "yolo-fp16.onnx").exists()
            assert read_spec(out / "yolo-fp16-stale.onnx").provenance.weights_sha256 == first
    assert run_verb("export", again) == 0
    whole = ["yolo-fp16.onnx", "yolo-fp16.report.html", "yolo-fp16.report.json", "yolo.onnx"]
    assert files(out) == whole, "nothing that was put aside is left"
    assert {read_spec(out / n).precision for n in files(out) if n.endswith("onnx")} == {"fp32", "fp16"}
