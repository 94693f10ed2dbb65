"""The run's folder: what a failed run leaves, whose files they are, and what is never overwritten."""

from __future__ import annotations

import json
import resource
import signal
import stat
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from training_runs import lines, start, train, wait_for  # noqa: E402

from edgedet.contract.errors import OutputError, TrainingError, WeightsError  # noqa: E402
from edgedet.training.checkpoint import load_model, read, write_tensors  # noqa: E402
from edgedet.training.run_folder import RunFolder  # noqa: E402

ONE = ("--epochs", "1", "--val-split", "none")


@pytest.fixture(scope="module")
def stopped(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was ended after some steps."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(voc, folder, "--epochs", "500", "--val-split", "none", "--state-every", "2")
    wait_for(process, lambda: (folder / "state.safetensors").exists())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return folder


def test_a_run_without_a_step_leaves_the_folder_to_the_next(voc: Path, tmp_path: Path) -> None:
    """Too much of a learning rate: the loss is not finite before a state was written."""
    failed = train(voc, tmp_path, *ONE, "--lr", "1e30")
    assert failed.returncode == 1
    assert "error [TrainingError]: The " in failed.stderr
    assert " at step " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "state.safetensors").exists()
    assert not (tmp_path / "best.safetensors").exists()
    assert lines(tmp_path / "steps.jsonl"), "what led to it can be read"

    done = train(voc, tmp_path, *ONE)
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "steps.jsonl")) == 4
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["recipe"]["lr"] == 1e-3


def test_files_have_the_mode_of_the_users_umask(voc: Path, tmp_path: Path) -> None:
    done = train(voc, tmp_path, *ONE, umask=0o027)
    assert done.returncode == 0, done.stderr
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--loss", "dice"), "no option of yolo is named 'loss'"),
        (("--device", "cuda"), "--device cuda, but torch finds no CUDA GPU here"),
        (("--batch", "9"), "8 images, fewer than one batch of 9"),
        (("--resume",), "holds no run to resume"),
    ],
)
def test_what_cannot_start_writes_nothing(
    voc: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is one")
    folder = tmp_path / "run"
    failed = train(voc, folder, *options)
    assert failed.returncode in (1, 2)
    assert said in failed.stderr
    assert not folder.exists()


def test_changed_settings_are_named(voc: Path, stopped: Path) -> None:
    before = (stopped / "state.safetensors").read_bytes()
    failed = train(voc, stopped, "--epochs", "7", "--val-split", "train", "--resume")
    assert failed.returncode == 1
    assert "validation was None, is now 'voc:VOC2007 train'" in failed.stderr
    assert "recipe.epochs was 500, is now 7" in failed.stderr
    assert (stopped / "state.safetensors").read_bytes() == before


def test_weights_of_unknown_origin_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"someone's")
    with pytest.raises(TrainingError, match=r"no run\.json"):
        RunFolder(tmp_path).prepare({}, {"seed": 0})
    (tmp_path / "run.json").write_text('{"settings": {"se')
    with pytest.raises(TrainingError, match=r"a run\.json that cannot be read"):
        RunFolder(tmp_path).prepare({}, {"seed": 0})
    assert (tmp_path / "best.safetensors").read_bytes() == b"someone's"


@pytest.mark.parametrize("settings", ["[" * 100_000, '{"settings": {}, "settings": {}}', "no JSON"])
def test_settings_that_cannot_be_read_hold_the_folder(tmp_path: Path, settings: str) -> None:
    (tmp_path / "run.json").write_text(settings)
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    with pytest.raises(TrainingError, match=r"holds a run\.json that cannot be read"):
        RunFolder(tmp_path).prepare({}, {"seed": 0})


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*steps\.jsonl"):
        RunFolder(tmp_path).prepare({}, {"seed": 0})


def test_what_a_kill_left_is_removed_before_the_disk_is_looked_at(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare({}, {"seed": 0})
    folder.close()
    (tmp_path / "state.safetensors").write_bytes(b"a state")
    places = (tmp_path, tmp_path / "proposals" / "ab", tmp_path / "stages" / "0123" / "features")
    for left in (place / ".edgedet-write.killed.partial" for place in places):
        left.mkdir(parents=True)
        (left / "state.safetensors").write_bytes(b"half of it")
    for log in ("steps.jsonl", "epochs.jsonl"):
        (tmp_path / log).unlink(missing_ok=True)
    assert folder.prepare({}, {"seed": 0}), "it goes on"
    folder.close()
    assert list(tmp_path.rglob("*.partial")) == []


def test_two_trainings_in_one_folder(voc: Path, tmp_path: Path) -> None:
    long = ("--epochs", "500", "--val-split", "none")
    first = start(voc, tmp_path, *long)
    try:
        wait_for(first, lambda: (tmp_path / "run.json").exists())
        second = train(voc, tmp_path, *long)
        assert second.returncode == 1
        assert f"error [TrainingError]: Another training is at work in {tmp_path}" in second.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    folder = RunFolder(tmp_path)
    folder.prepare({}, json.loads((tmp_path / "run.json").read_text())["settings"])
    folder.close()


def test_a_loader_that_outlives_a_killed_run_does_not_hold_the_folder(voc: Path, tmp_path: Path) -> None:
    first = start(voc, tmp_path, "--epochs", "500", "--workers", "1", "--state-every", "1")
    wait_for(first, lambda: (tmp_path / "state.safetensors").exists())
    first.kill()
    first.wait()
    half = tmp_path / ".edgedet-state.1.partial"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half of it")
    folder = RunFolder(tmp_path)
    assert folder.prepare({}, json.loads((tmp_path / "run.json").read_text())["settings"])
    assert not list(tmp_path.glob("*partial*")), "what the kill left half written"
    folder.close()
    first.communicate()


def test_a_disk_that_fills_leaves_the_state_before(voc: Path, stopped: Path) -> None:
    """A limit on the size of files stands for the disk: 20 MiB hold the weights, not the state."""
    size = 20 * 2**20
    before = (stopped / "state.safetensors").read_bytes()
    more = ("--epochs", "500", "--val-split", "none", "--state-every", "2")
    failed = train(
        voc, stopped, *more, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    )
    assert failed.returncode == 1
    assert f"error [OutputError]: Cannot write {stopped / 'state.safetensors'}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (stopped / "state.safetensors").read_bytes() == before
    assert not [p for p in stopped.iterdir() if "partial" in p.name]


def test_a_disk_without_room_is_said_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"MiB free, the files of this run need .* MiB"):
        RunFolder(tmp_path).check_space(2**60)
    RunFolder(tmp_path).check_space(1)


def test_logs_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare({}, {})
    (tmp_path / "steps.jsonl").mkdir()
    folder.log_step({"step": 0, "loss": 1.0})
    with pytest.raises(OutputError, match=r"steps\.jsonl"):
        folder.close()


def test_the_board_is_read_by_tensorboard(tmp_path: Path) -> None:
    """A run that goes on from step 10: what the file before says of later steps is void."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start_at, steps in ((0, range(0, 40, 10)), (10, range(10, 30, 10))):
        folder = RunFolder(tmp_path)
        folder.prepare({}, {})
        folder.open_board(start_at)
        for step in steps:
            folder.log_step({"step": step, "epoch": 0, "loss": step + start_at})
        folder.log_epoch({"validation": 0, "score": None, "best": None})
        folder.close()
        written = max(tmp_path.glob("events.out.tfevents.*.*"))
        written.rename(tmp_path / f"events.out.tfevents.{start_at:02}")
    events = loader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 0.0), (10, 20.0), (20, 30.0)]
    assert "validation/score" not in events.Tags()["scalars"]


@pytest.mark.parametrize("damage", ["progress", "best", "moments", "numbers"])
def test_a_state_that_is_none_is_named(voc: Path, stopped: Path, tmp_path: Path, damage: str) -> None:
    from edgedet.models import build
    from edgedet.training.optimise import parameter_groups
    from edgedet.training.recipe import RECIPES
    from edgedet.training.state import load_into

    tensors, metadata = read(stopped / "state.safetensors")
    if damage == "progress":
        metadata["progress"] = '{"epoch": "two"}'
    elif damage == "best":  # no later score is higher than NaN
        metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | {"best": float("nan")})
    elif damage == "moments":
        tensors = {k: v for k, v in tensors.items() if not k.endswith("exp_avg_sq")}
    else:
        tensors["optimizer.0.exp_avg"] = torch.zeros(3)
    write_tensors(tmp_path / "state.safetensors", tensors, metadata)
    settings = json.loads((stopped / "run.json").read_text())["settings"]
    model = build("yolo", 20, pretrained=False, **settings["recipe"]["model"])
    average = build("yolo", 20, pretrained=False, **settings["recipe"]["model"])
    optimizer = torch.optim.AdamW(parameter_groups(model, RECIPES["yolo"]))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert load_into(stopped / "state.safetensors", model, average, optimizer, scaler).step >= 2
    with pytest.raises(WeightsError, match="is not a state to go on from"):
        load_into(tmp_path / "state.safetensors", model, average, optimizer, scaler)


def test_what_is_not_finite_is_not_written(stopped: Path, tmp_path: Path) -> None:
    from edgedet.training.state import check_finite

    model, _ = (
        load_model(stopped / "best.safetensors")
        if (stopped / "best.safetensors").exists()
        else (
            torch.nn.Linear(2, 2),
            None,
        )
    )
    check_finite(model, "best.safetensors")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(TrainingError, match=r"no longer finite: best\.safetensors is left as it was"):
        check_finite(model, "best.safetensors")
