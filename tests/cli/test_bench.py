"""`edgedet-bench`: real engines, a real pipeline, a real clip; what it says, not how fast it is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import pytest
from rich.console import Console

from edgedet.bench.claims import CAVEAT, CLAIMS, SPEEDUPS
from edgedet.bench.figures import LATENCY_CLOCK, Measured, gains
from edgedet.bench.measure import measure
from edgedet.bench.report import SpeedReport, fps_text, times_text
from edgedet.contract.errors import SourceError, UsageError
from edgedet.runtime.hardware import cpu

ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def results(tiny_model: Callable[..., Path], clip: Path) -> list[Measured]:
    seen: list[str] = []
    models = [tiny_model("fp32"), tiny_model("int8")]
    measured = measure(list(product(models, ENGINES)), str(clip), frames=15, rounds=3, progress=seen.append)
    assert len(seen) == 3 * 2 * 2
    return measured


@pytest.fixture(scope="module")
def report(results: list[Measured]) -> SpeedReport:
    return SpeedReport(cpu(), 8.0, "square.mp4", 15, None, results, gains(results))


def test_names_stay_what_they_are(results: list[Measured]) -> None:
    """Names of files are no markup, and no escape sequence in them reaches the terminal."""
    odd = [replace(m, file=Path("a[b]\x1b[31m.onnx")) for m in results]
    out = io.StringIO()
    SpeedReport(cpu(), 8.0, "[/x]\x1b[2J", 15, None, odd, ()).show(Console(file=out, width=200, markup=False))
    shown = "".join(out.getvalue().split())  # columns are narrow: names are folded
    assert "a[b]\\x1b[31m.onnx" in shown
    assert "[/x]\\x1b[2J" in shown
    assert "\x1b" not in out.getvalue()


def test_every_model_is_measured_on_every_engine(results: list[Measured]) -> None:
    assert [(m.precision, m.library) for m in results] == [(p, e) for p in ("fp32", "int8") for e in ENGINES]
    for m in results:
        assert len(m.rounds) == 3
        assert all(r.pipeline.frames == 15 for r in m.rounds)
        stages = {"capture", "preprocess", "network", "postprocess", "overlay", "json"}
        assert stages <= set(m.middle.pipeline.stages)
        assert stages - {"network"} < set(m.middle.pipeline.cpu_ms)
        assert m.size == (64, 64)
        assert m.in_flight >= 2


def test_one_image_at_a_time_step_by_step(results: list[Measured]) -> None:
    for m in results:
        for r in m.rounds:
            one = r.image
            assert one.images == 15
            assert list(one.steps) == ["preprocess", "network", "postprocess"]
            assert 0 < max(one.steps.values()) < one.whole
            assert one.without_proposals == one.whole, "it finds its own regions"
        assert m.to_json()["image_ms"]["steps"] == m.middle.image.steps


def test_a_slow_model_sees_fewer_frames(tiny_model: Callable[..., Path], clip: Path) -> None:
    (m,) = measure([(tiny_model(), "onnxruntime")], str(clip), frames=40, rounds=1, seconds=1e-9)
    assert m.rounds[0].pipeline.frames == 3
    assert m.rounds[0].image.images == 3


def test_figures_beside_each_other_are_of_one_round(results: list[Measured], report: SpeedReport) -> None:
    for m, shown in zip(results, report.to_json()["results"], strict=True):
        ratios = sorted(r.pipeline.fps / r.engine_fps for r in m.rounds)
        assert (m.ratio_range[0], m.middle.ratio, m.ratio_range[1]) == pytest.approx(tuple(ratios))
        assert m.middle in m.rounds
        # the ratio in a row is that of the two throughputs in the same row
        ratio = shown["pipeline_over_engine"]
        assert ratio["this"] == pytest.approx(shown["pipeline_fps"] / shown["engine_fps"], rel=1e-2)
        assert shown["pipeline"]["fps"] == pytest.approx(shown["pipeline_fps"], rel=1e-2)
        # the network is one convolution: the pipeline cannot be hidden behind it
        assert ratios[-1] < 1


def test_decoding_bounds_what_a_pipeline_can_reach(results: list[Measured]) -> None:
    for m in results:
        for r in m.rounds:
            assert r.network_cpu > 0
            assert r.decode_cpu > 0
            assert r.bound == pytest.approx(r.network_cpu / (r.network_cpu + r.decode_cpu))
            # decoding alone is a part of what capturing costs: no conversion, no hand-over
            assert r.decode_cpu < 2 * sum(r.pipeline.cpu_ms.values())


def test_it_fits_into_100_columns(report: SpeedReport, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    report.show(Console(width=100))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for name in ("at best", "CPU ms network", "CPU a frame", "network and libraries", "capture to result"):
        assert all(word in text for word in name.split())
    for m in report.results:
        assert any(m.engine in line for line in lines)
        assert any(f"{m.middle.pipeline.fps:.1f}" in line for line in lines)


def test_int8_is_set_against_fp32_of_the_same_model_and_engine(results: list[Measured]) -> None:
    found = gains(results)
    assert [g.library for g in found] == list(ENGINES)
    low, full = results[2], results[0]
    pairs = sorted(a.latency.p50 / b.latency.p50 for a, b in zip(low.rounds, full.rounds, strict=True))
    assert (found[0].least, found[0].median, found[0].most) == pytest.approx(tuple(pairs))
    assert gains(results[:2]) == []


def test_the_report_says_the_conditions_of_both_sides(
    report: SpeedReport, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    report.show(Console(width=240))
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    assert report.cpu.model in text
    assert CAVEAT in flat
    for c in CLAIMS:
        for part in (c.system, fps_text(c), c.hardware):
            assert part in text
    for s in SPEEDUPS:
        assert s.holds_for in flat
    assert LATENCY_CLOCK in flat
    assert "capture, resize, network, decoding, drawing, JSON line" in flat


def test_the_json_holds_the_same_and_round_trips(report: SpeedReport) -> None:
    data = json.loads(json.dumps(report.to_json()))
    assert len(data["results"]) == 4
    assert data["machine"]["model"] == report.cpu.model
    assert len(data["claims"]) == len(CLAIMS)
    rcnn = next(c for c in data["claims"] if c["system"] == "R-CNN")
    fps = [m["pipeline_fps"] for m in data["results"]]
    for (least, most), here in zip(rcnn["here_over_claim"], fps, strict=True):
        assert least == most == pytest.approx(here * 15, rel=1e-3)
    bound = next(c for c in data["claims"] if c["bound"])
    assert bound["here_over_claim"] == [None] * 4
    assert data["caveat"] == CAVEAT


def test_texts_of_figures() -> None:
    texts = {c.system: fps_text(c) for c in CLAIMS}
    assert texts["R-CNN"] == "0.067"
    assert texts["YOLO v1"] == "45"
    assert texts["FCN"] == "3 to 10"
    assert texts["U-Net"] == "over 1"
    assert times_text((285.4, 285.4)) == "285x"
    assert times_text((0.42, 0.42)) == "0.42x"
    assert times_text((1.9, 6.27)) == "1.9x to 6.3x"
    assert times_text(None) == "--"


def test_from_the_command_line_to_table_json_and_picture(
    cli: Any, tiny_model: Callable[..., Path], clip: Path, tmp_path: Path
) -> None:
    saved, picture = tmp_path / "out/fps.json", tmp_path / "out/fps.png"
    files = [tiny_model("fp32"), tiny_model("int8")]
    options = [
        "--source",
        clip,
        "--frames",
        "12",
        "--rounds",
        "2",
        "--save-json",
        saved,
        "--picture",
        picture,
    ]
    done = cli("edgedet-bench", *files, *options)
    assert done.returncode == 0, done.stderr
    assert "Measured here" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("wrote ")) <= 100
    assert f"wrote {saved}\nwrote {picture}\n" in done.stdout
    assert len(json.loads(saved.read_text())["results"]) == 4
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] > 1000
    assert sorted(p.name for p in saved.parent.iterdir()) == ["fps.json", "fps.png"]


def test_json_alone_on_stdout(cli: Any, tiny_model: Callable[..., Path], clip: Path) -> None:
    options = ["--source", clip, "--frames", "10", "--rounds", "1", "--engine", "onnxruntime", "--json"]
    done = cli("edgedet-bench", tiny_model(), *options)
    assert done.returncode == 0, done.stderr
    assert [m["engine"] for m in json.loads(done.stdout)["results"]] == ["ONNX Runtime CPU fp32"]


def test_a_live_source_is_refused(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises((UsageError, SourceError)):
        measure([(tiny_model(), "onnxruntime")], "99", frames=10, rounds=1)


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--source", "no.mp4"], 1, "error [SourceError]: There is no source 'no.mp4'."),
        (["--engine", "openvno", "--source", "x"], 2, "Did you mean 'openvino'?"),
        (["--source", "x", "--frames", "1"], 2, "--frames"),
        ([], 2, "Missing option '--source'"),
        (["--source", "x", "--data", "voc:x"], 2, "--data is for --all"),
        (["--source", "x", "-o", "x"], 2, "--output is for --all"),
        (["--all", "--data", "voc:x"], 2, "--all takes no files"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    cli: Any, tiny_model: Callable[..., Path], options: list[str], code: int, error: str
) -> None:
    done = cli("edgedet-bench", tiny_model(), *options)
    assert done.returncode == code
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_picture_of_an_unknown_kind_is_refused(
    cli: Any, tiny_model: Callable[..., Path], clip: Path, tmp_path: Path
) -> None:
    options = ["--source", clip, "--frames", "10", "--rounds", "1", "--picture", tmp_path / "fps.xyz"]
    done = cli("edgedet-bench", tiny_model(), *options)
    assert done.returncode == 2
    assert "error [UsageError]: Cannot draw fps.xyz" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_output_is_an_input(tiny_model: Callable[..., Path], clip: Path, tmp_path: Path, cli: Any) -> None:
    model = tiny_model()
    before = model.read_bytes()
    for options in (
        ["--save-json", model],
        ["--picture", clip],
        ["--save-json", "a.png", "--picture", "a.png"],
    ):
        done = cli("edgedet-bench", model, "--source", clip, *options, cwd=tmp_path)
        assert done.returncode == 2
        assert "which is also an" in done.stderr
    assert model.read_bytes() == before
