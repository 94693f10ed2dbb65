"""edgedet-train as a person runs it: to the end, killed and run again, in several processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from training_runs import ENVIRONMENT, command, train

from edgedet.contract.errors import WeightsError
from edgedet.models import build
from edgedet.training.checkpoint import load_model, read, start_from


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
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=quiet, stderr=quiet)
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
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in steps(folder)] == list(range(4))
    assert json.loads((folder / "run.json").read_text())["settings"]["processes"] == 2
    load_model(folder / "best.safetensors")


def test_a_validation_may_last_longer_than_the_processes_wait_for_each_other(
    voc: Path, tmp_path: Path
) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("slow_validation.py"))
    done = subprocess.run(
        [sys.executable, *launch, script, str(voc), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert "validated" in done.stdout


def test_fine_tuning_starts_from_the_layers_that_fit(voc: Path, unbroken: Path, tmp_path: Path) -> None:
    """The data's classes are the weights' here, so everything fits; without learning it stays as given."""
    weights = unbroken / "best.safetensors"
    still = ("--lr", "1e-300", "--epochs", "1")  # 0 in float32
    done = train(voc, tmp_path / "tuned", "--weights", str(weights), *still, "--json")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "tuned" / "run.json").read_text())["settings"]
    assert settings["fresh"] == []
    assert settings["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    given, tuned = read(weights)[0], read(tmp_path / "tuned" / "best.safetensors")[0]
    for name, value in given.items():
        if "running" not in name and "num_batches" not in name:  # norms count what they see
            assert torch.equal(tuned[name], value), name
    again = train(voc, tmp_path / "tuned", *still)  # without the weights: another run
    assert again.returncode != 0
    assert "holds a run with other settings: weights_sha256 was" in again.stderr


def part_of(name: str) -> str:
    """ "head.0.1.weight" -> "head.0"; of other parts the first word."""
    return ".".join(name.split(".")[: 2 if name.startswith("head.") else 1])


def test_what_is_frozen_stays_as_it_was_given(voc: Path, unbroken: Path, tmp_path: Path) -> None:
    weights = unbroken / "best.safetensors"
    out = tmp_path / "frozen"
    frozen = ["backbone", "fine", "head.0"]
    parts = [word for part in frozen for word in ("--freeze", part)]
    done = train(voc, out, "--weights", str(weights), "--epochs", "1", *parts, "--json")
    assert done.returncode == 0, done.stderr
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["recipe"]["frozen"] == frozen
    given, tuned = read(weights)[0], read(out / "best.safetensors")[0]
    still = {n for n in given if any(n.startswith(f"{part}.") for part in frozen)}
    assert all(torch.equal(tuned[name], given[name]) for name in still)
    moved = {part_of(n) for n in given if not torch.equal(tuned[n], given[n])}
    assert moved == {part_of(n) for n in given} - set(frozen)

    for arguments, says in (
        (["--weights", str(weights), "--freeze", "bakbone"], "Did you mean 'backbone'"),
        (
            ["--weights", str(weights), "--freeze", "head.9"],
            "no part of the network is named 'head.9'. Did you mean 'head.",
        ),
        (["--freeze", "head"], "--freeze head: nothing was learned there that could stay as it is (head"),
    ):
        done = train(voc, tmp_path / "never", *arguments)
        assert done.returncode != 0 and says in done.stderr
        assert not (tmp_path / "never").exists()


def test_another_number_of_classes_leaves_the_last_layer_fresh(unbroken: Path) -> None:
    torch.manual_seed(1)
    model = build("yolo", 3, pretrained=False, size=[64, 64])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert start_from(model, unbroken / "best.safetensors") == ["head.3"]
    given, _ = read(unbroken / "best.safetensors")
    for name, now in model.state_dict().items():
        expected = before[name] if name.startswith("head.3") else given[name]
        assert torch.equal(now, expected), name


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"No layer of .*other\.safetensors fits Yolo"):
        start_from(build("yolo", 3, pretrained=False), tmp_path / "other.safetensors")


def test_several_sets_are_trained_on_together_the_first_is_validated_on(voc: Path, tmp_path: Path) -> None:
    more = tmp_path / "VOC2012X"
    shutil.copytree(voc, more)
    listed = more / "ImageSets/Main/train.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:4]))
    (more / "ImageSets/Main/val.txt").unlink()
    options = ["--epochs", "1", "--data", f"voc:{more}", "--json"]
    done = train(voc, tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6  # 8 and 4 images in twos
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["data"] == "voc:VOC2007 train + voc:VOC2012X train"
    assert settings["validation"] == "voc:VOC2007 val"
    # the run's state belongs to the labels of both
    label = more / "Annotations" / f"{listed.read_text().split()[0]}.xml"
    label.write_text(label.read_text().replace("<difficult>0", "<difficult>1"))
    refused = train(voc, tmp_path / "run", *options)
    assert refused.returncode == 1
    assert "data_sha256" in refused.stderr
