"""edgedet-train as a person runs it: to the end, killed and run again, in several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from edgedet.training.checkpoint import load_model

ARGUMENTS = ["--model", "yolo", "--size", "64x64", "--batch", "2", "--epochs", "2", "--workers", "0"]


def command(voc: Path, folder: Path, *more: str) -> list[str]:
    return ["-m", "edgedet", "train", *ARGUMENTS, "--data", f"voc:{voc}", "-o", str(folder), *more]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def train(voc: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command(voc, folder, *more)], env=environment(), capture_output=True, text=True
    )


def steps(folder: Path) -> list[dict[str, Any]]:
    """The loss sequence, without the speed."""
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.fixture(scope="module")
def unbroken(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    done = train(voc, folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 8
    assert result["epochs"] == 2
    return folder


def test_a_run_leaves_all_that_is_needed_to_repeat_it(unbroken: Path) -> None:
    run = json.loads((unbroken / "run.json").read_text())
    assert run["settings"]["recipe"]["epochs"] == 2
    assert run["settings"]["seed"] == 0
    assert len(run["settings"]["data_sha256"]) == 64
    assert torch.__version__.startswith(run["versions"]["torch"])
    assert run["hardware"]["cpu"]
    assert [line["step"] for line in steps(unbroken)] == list(range(8))
    assert list(unbroken.glob("events.out.tfevents.*"))
    model, spec = load_model(unbroken / "best.safetensors")
    assert spec.model == "yolo"
    assert spec.input.size == (64, 64)
    assert {"cat", "dog"} < set(spec.classes)
    assert len(spec.provenance.weights_sha256) == 64
    assert not model.training


def test_kill_9_and_the_same_command_give_the_same_run(voc: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = [sys.executable, *command(voc, folder, "--state-every", "1")]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, env=environment(), stdout=quiet, stderr=quiet)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "steps.jsonl").exists() and len((folder / "steps.jsonl").read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"

    again = train(voc, folder)
    assert again.returncode == 0, again.stderr
    assert "going on from epoch" in again.stderr
    assert steps(folder) == steps(unbroken)
    first, second = load_model(unbroken / "best.safetensors")[0], load_model(folder / "best.safetensors")[0]
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not [p for p in folder.iterdir() if "partial" in p.name]


def test_other_settings_in_the_same_folder_are_refused(voc: Path, unbroken: Path) -> None:
    refused = train(voc, unbroken, "--seed", "1")
    assert refused.returncode == 1
    assert "holds a run with other settings: seed was 0, is now 1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_resume_without_a_run_is_refused(voc: Path, tmp_path: Path) -> None:
    refused = train(voc, tmp_path / "nothing", "--resume")
    assert refused.returncode == 1
    assert "holds no run to resume" in refused.stderr


def test_two_processes_through_torchrun(voc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, *command(voc, folder, "--epochs", "1")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in steps(folder)] == list(range(4))
    assert json.loads((folder / "run.json").read_text())["settings"]["processes"] == 2
    load_model(folder / "best.safetensors")
