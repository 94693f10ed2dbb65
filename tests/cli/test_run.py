"""`edgedet-run` as people run it: a process, its outputs, its exit code and what it says."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedet.cli.main import run_verb
from edgedet.runtime.hardware import streams_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def frames_of(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    count = 0
    while video.read()[0]:
        count += 1
    return count


def test_a_clip_to_a_video_and_lines(cli: Cli, brightness: Path, bikes: Path, tmp_path: Path) -> None:
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    done = cli(
        "edgedet-run", brightness, "--source", bikes, "--limit", "30", "--save", video, "--json-lines", lines
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "30 frames" in done.stdout
    assert "capture to result" in done.stdout
    assert frames_of(video) == 30
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["frame"] for r in records] == list(range(30))
    assert records[0]["detections"][0]["class"] == "bright"


def test_lines_on_stdout_leave_the_table_to_stderr(cli: Cli, brightness: Path, bikes: Path) -> None:
    done = cli("edgedet-run", brightness, "--source", bikes, "--limit", "5", "--json-lines", "-")
    assert done.returncode == 0
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(5))
    assert "5 frames" in done.stderr


def test_the_summary_as_json(cli: Cli, brightness: Path, bikes: Path) -> None:
    done = cli(
        "edgedet-run", brightness, "--source", bikes, "--json", "--score", "0.99", "--engine", "onnxruntime"
    )
    report = json.loads(done.stdout)
    assert report["frames"] == 250
    assert report["engine"] == "ONNX Runtime CPU fp32"


def test_failures_are_one_line_and_exit_code(cli: Cli, brightness: Path, bikes: Path, tmp_path: Path) -> None:
    picture = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[
        1
    ].tobytes()
    half, foreign, damaged = tmp_path / "half.jpg", tmp_path / "foreign.onnx", tmp_path / "damaged.mp4"
    half.write_bytes(picture[: len(picture) // 2])
    foreign.write_bytes(brightness.read_bytes().replace(b"edgedet.spec", b"another.spec"))
    clip = bytearray(bikes.read_bytes())
    clip[504_641:506_141] = bytes(1500)
    damaged.write_bytes(clip)
    source, nobody = ("--source", bikes), "http://127.0.0.1:9/"
    for code, words, args in (
        (1, "edgedet-export --model yolo", ("yolo", *source)),
        (1, "no edgedet spec", (foreign, *source)),
        (1, "half.jpg is truncated", (brightness, "--source", half)),
        (1, "Cannot open camera 99", (brightness, "--source", "99", "--reconnects", "0")),
        (1, "Cannot open http://127.0.0.1:9/", (brightness, "--source", nobody, "--reconnects", "0")),
        (1, "protocol of ftp://127.0.0.1/ cannot be", (brightness, "--source", "ftp://127.0.0.1/")),
        (1, "2 of 250 frames of the video damaged.mp4", (brightness, "--source", damaged)),
        (1, "Cannot write", (brightness, *source, "--save", half / "out.mp4")),
        (2, "onnxruntime", (brightness, *source, "--engine", "onnxruntme")),
        (2, "stdout", (brightness, *source, "--json", "--json-lines", "-")),
        (2, "--score", (brightness, *source, "--score", "7")),
        (2, "--timeout", (brightness, *source, "--timeout", "0")),
        (2, "--reconnects", (brightness, *source, "--reconnects", "-1")),
    ):
        done = cli("edgedet-run", *args)
        assert done.returncode == code, (args, done)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error [")
        assert words in line


def test_a_damaged_clip_is_summed_up_before_the_error(
    cli: Cli, brightness: Path, bikes: Path, tmp_path: Path
) -> None:
    clip = bytearray(bikes.read_bytes())
    clip[504_641:506_141] = bytes(1500)
    (tmp_path / "damaged.mp4").write_bytes(clip)
    done = cli(
        "edgedet-run", brightness, "--source", tmp_path / "damaged.mp4", "--save", tmp_path / "out.mp4"
    )
    assert done.returncode == 1
    assert "248 frames" in done.stdout
    assert frames_of(tmp_path / "out.mp4") == 248


def test_ctrl_c_ends_a_live_run_well(
    camera: Callable[[Callable[[int], Iterator[Any]]], Any], brightness: Path, tmp_path: Path
) -> None:
    def script(connection: int) -> Iterator[Any]:
        for _ in itertools.count():
            yield np.full((48, 64, 3), 100, np.uint8)
            yield 0.01

    command = [str(Path(sysconfig.get_path("scripts")) / "edgedet-run"), str(brightness)]
    command += ["--source", camera(script).url, "--save", str(tmp_path / "out.mp4"), "--json-lines", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    assert process.returncode == 0, errors
    assert all(record["detections"][0]["class"] == "bright" for record in lines)
    assert "interrupted" in errors
    assert frames_of(tmp_path / "out.mp4") > 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_ctrl_c_on_a_file_is_an_unfinished_job(brightness: Path, tmp_path: Path) -> None:
    for i in range(3000):  # hard links: as many images, one on disk
        target = tmp_path / f"{i:05}.bmp"
        if i == 0:
            cv2.imwrite(str(target), np.full((480, 640, 3), 90, np.uint8))
        else:
            target.hardlink_to(tmp_path / "00000.bmp")
    command = [str(Path(sysconfig.get_path("scripts")) / "edgedet-run"), str(brightness)]
    command += ["--source", str(tmp_path), "--json-lines", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    assert first["frame"] == 0
    assert process.returncode == 130
    assert len(rest.splitlines()) < 2999
    assert "interrupted" in errors


@pytest.mark.parametrize(("cores", "streams"), [(1, 1), (2, 2), (4, 2), (8, 4), (64, 4)])
def test_files_run_several_inferences_at_once(
    cores: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedet.runtime.hardware.cores", lambda: cores)
    assert streams_for(live=False) == streams
    assert streams_for(live=True) == 1


def test_a_semantic_model_in_tiles_to_a_video_and_lines(
    cli: Cli, segmenter: Callable[..., Path], clip: Path, tmp_path: Path
) -> None:
    model, video = segmenter("cli"), tmp_path / "out.mp4"
    arguments = (model, "--source", clip, "--tile", "0.25", "--save", video, "--json-lines", "-")
    done = cli("edgedet-run", *arguments)
    assert done.returncode == 0, done.stderr
    assert "tiles" in done.stderr
    assert frames_of(video) == 40
    first = json.loads(done.stdout.splitlines()[0])
    assert {area["class"] for area in first["areas"]} >= {"dark", "bright"}
    assert sum(area["pixels"] for area in first["areas"]) == 80 * 96


def test_options_of_the_other_task_are_refused(
    segmenter: Callable[..., Path], brightness: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, option, value, words in (
        (segmenter("cli"), "--score", "0.3", "--score and --iou are for boxes"),
        (brightness, "--tile", "0.25", "Tiles need a semantic model"),
        (segmenter("cli"), "--tile", "0.9", "--tile"),
    ):
        assert run_verb("run", [str(model), "--source", str(clip), option, value]) == 2
        assert words in capsys.readouterr().err
