"""What `edgedet-run` leaves on the disk when it is killed, started again, or has no space."""

from __future__ import annotations

import itertools
import json
import resource
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_fixtures import levels_of, times_of

from edgedet.runtime.sinks.recorder import have_pyav

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Camera = Callable[[Callable[[int], Iterator[Any]]], Any]
SCRIPT = str(Path(sysconfig.get_path("scripts")) / "edgedet-run")
needs_pyav = pytest.mark.skipif(not have_pyav(), reason="needs PyAV (extra av)")


def steady(connection: int) -> Iterator[Any]:
    """Noise, so that a recording has some size; at most 20 frames a second."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    for _ in itertools.count():
        yield noise
        yield 0.05


def small_disk() -> None:
    """For a process that starts: a file of more than 200 KiB cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, 200 << 10))


@needs_pyav
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_recording_survives_its_process(
    name: str, camera: Camera, cli: Cli, brightness: Path, tmp_path: Path
) -> None:
    number, video = getattr(signal, name), tmp_path / "out.mp4"
    command = [SCRIPT, brightness, "--source", camera(steady).url, "--save", video, "--json-lines", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(50)]
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == (-9 if name == "SIGKILL" else 0), errors
    before = video.read_bytes()
    assert times_of(video)[-1] > lines[-1]["time"] - 1
    again = cli("edgedet-run", *command[1:-1], tmp_path / "out.jsonl", "--limit", "5")
    assert again.returncode == 0, again.stderr
    assert "out-2.mp4" in again.stderr
    assert video.read_bytes() == before
    assert len(times_of(tmp_path / "out-2.mp4")) >= 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out-2.mp4", "out.jsonl", "out.mp4"]


def test_an_interrupted_job_replaces_nothing(brightness: Path, bikes: Path, tmp_path: Path) -> None:
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    video.write_bytes(b"old")
    lines.write_bytes(b"old")
    shots = tmp_path / "shots"
    shots.mkdir()
    import cv2

    cv2.imwrite(str(shots / "0.bmp"), np.full((240, 320, 3), 90, np.uint8))
    for i in range(1, 3000):
        (shots / f"{i}.bmp").hardlink_to(shots / "0.bmp")
    command = [SCRIPT, brightness, "--source", shots, "--save", video, "--json-lines", lines]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(p.stat().st_size for p in tmp_path.glob(".out.*.jsonl")):
            pass
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert video.read_bytes() == lines.read_bytes() == b"old"
    assert str(tmp_path / "out-2.mp4") in errors  # on one line, however long
    assert 0 < len(levels_of(tmp_path / "out-2.mp4")) < 3000
    assert sorted(p.name for p in tmp_path.glob("*.*")) == [
        "out-2.jsonl",
        "out-2.mp4",
        "out.jsonl",
        "out.mp4",
    ]


@needs_pyav
def test_a_disk_without_space_ends_a_job_and_keeps_what_fits(
    cli: Cli, brightness: Path, bikes: Path, tmp_path: Path
) -> None:
    video = tmp_path / "out.mp4"
    done = cli("edgedet-run", brightness, "--source", bikes, "--save", video, preexec_fn=small_disk)
    assert done.returncode == 1
    assert f"Cannot write {video}" in done.stderr
    assert "250 frames" not in done.stdout
    assert 5 < len(levels_of(video)) < 250


@needs_pyav
def test_a_disk_without_space_is_said_at_once_and_does_not_end_a_live_run(
    camera: Camera, brightness: Path, tmp_path: Path
) -> None:
    video = tmp_path / "out.mp4"
    command = [SCRIPT, brightness, "--source", camera(steady).url, "--save", video, "--json-lines", "-"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=small_disk
    ) as process:
        assert process.stdout is not None
        notice: dict[str, Any] = {}
        while "notice" not in notice:
            notice = json.loads(process.stdout.readline())
        after = [json.loads(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
    assert f"Cannot write {video}" in notice["notice"]
    assert all("detections" in line for line in after)
    assert process.returncode == 1
    assert "Nothing more is recorded" in " ".join(errors.split())
    assert len(levels_of(video)) > 5


def test_no_output_is_an_input_or_another_output(
    brightness: Path, bikes: Path, tmp_path: Path, cli: Cli
) -> None:
    source, model = tmp_path / "clip.mp4", tmp_path / "model.mp4"  # a name that --save takes
    source.write_bytes(bikes.read_bytes())
    model.write_bytes(brightness.read_bytes())
    (tmp_path / "hard.mp4").hardlink_to(source)
    (tmp_path / "soft.mp4").symlink_to(source)
    files = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for words, *options in (
        ("an input: --source", "--save", source),
        ("an input: --source", "--save", tmp_path / "hard.mp4"),
        ("an input: --source", "--save", tmp_path / "soft.mp4"),
        ("an input: --source", "--json-lines", source),
        ("an input: the model", "--json-lines", model),
        ("an input: the model", "--save", model),
        ("another output: --save", "--save", tmp_path / "a.mp4", "--json-lines", tmp_path / "a.mp4"),
        ("both write to stdout", "--json", "--json-lines", "/dev/stdout"),
    ):
        done = cli("edgedet-run", model, "--source", source, *options)
        assert done.returncode == 2, (options, done)
        assert words in done.stderr
        assert done.stdout == ""
    # and nothing is made before a run can start
    nothing = ("--save", tmp_path / "new" / "a.mp4", "--json-lines", tmp_path / "new" / "a.jsonl")
    assert cli("edgedet-run", model, "--source", tmp_path / "none.mp4", *nothing).returncode == 1
    assert cli("edgedet-run", source, "--source", source, *nothing).returncode == 1
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == files


def test_lines_on_dev_stdout_are_lines_on_stdout(cli: Cli, brightness: Path, clip: Path) -> None:
    done = cli("edgedet-run", brightness, "--source", clip, "--limit", "3", "--json-lines", "/dev/stdout")
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2]
    assert "3 frames" in done.stderr
