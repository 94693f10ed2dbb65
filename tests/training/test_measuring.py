"""What is said before the first step; a validation without anything to measure has no score."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from training_runs import lines, train  # noqa: E402

from edgedet.data import Dataset, open_dataset  # noqa: E402
from edgedet.models import build, make_spec  # noqa: E402
from edgedet.training.checkpoint import load_model, read  # noqa: E402
from edgedet.training.loop import Trainer  # noqa: E402
from edgedet.training.processes import join  # noqa: E402
from edgedet.training.recipe import Recipe  # noqa: E402
from edgedet.training.run_folder import RunFolder  # noqa: E402
from edgedet.training.signals import Stopped, StopRequest  # noqa: E402


@pytest.fixture(scope="module")
def difficult(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`voc`, whose objects of val are all "difficult": they neither count nor are learned from."""
    root = shutil.copytree(voc, tmp_path_factory.mktemp("difficult") / "VOC2007")
    for name in lines(root / "ImageSets/Main/val.txt"):
        file = root / "Annotations" / f"{name}.xml"
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    return root


@pytest.fixture
def yolo(voc: Path, tmp_path: Path) -> Path:
    """The photographs of `voc`'s train split as YOLO data with a box each, in a folder of a strange name."""
    root = tmp_path / "da[/red]ta"
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    for name in lines(voc / "ImageSets/Main/train.txt"):
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", root / "images" / "train")
        (root / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "classes.txt").write_text("c[/b]at\x1b[31m\ndog\n")
    return root


def test_nothing_to_measure_is_no_score(difficult: Path, tmp_path: Path) -> None:
    """The last epoch's weights are kept, and not the first epoch's that "won" with 0."""
    done = train(difficult, tmp_path, "--patience", "1", "--epochs", "3", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["best"], result["best_epoch"], result["epochs"]) == (None, None, 3)
    assert "nothing to measure there: the last epoch's weights are kept" in done.stderr
    epochs = [json.loads(line) for line in lines(tmp_path / "epochs.jsonl")]
    assert [(e["score"], e["best"]) for e in epochs] == [(None, None)] * 3
    best, state = read(tmp_path / "best.safetensors")[0], read(tmp_path / "state.safetensors")[0]
    assert all(torch.equal(value, state[f"average.{name}"]) for name, value in best.items())
    assert not load_model(tmp_path / "best.safetensors")[1].metrics
    again = train(difficult, tmp_path, "--patience", "1", "--epochs", "3")
    assert again.returncode == 0
    assert "this run is finished" in again.stderr
    assert "not measured: the weights are those of the last epoch" in again.stdout


def test_a_validation_of_unreadable_images_is_no_score(voc: Path, tmp_path: Path) -> None:
    data = shutil.copytree(voc, tmp_path / "VOC2007")
    for name in lines(data / "ImageSets/Main/val.txt"):
        (data / "JPEGImages" / f"{name}.jpg").write_bytes(b"no picture")
    done = train(data, tmp_path / "run", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "epoch 0: AP not measured, No image of voc:VOC2007 val can be read" in done.stderr
    assert "none so far: the last weights are kept" in done.stderr


def test_a_set_without_objects_is_refused_before_anything_is_written(difficult: Path, tmp_path: Path) -> None:
    done = train(difficult, tmp_path / "run", "--split", "val")
    assert done.returncode == 1
    assert "error [EmptyDataset]" in done.stderr
    assert "has 4 images and no object to learn from" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_summary_comes_before_the_first_step(voc: Path, tmp_path: Path) -> None:
    data = shutil.copytree(voc, tmp_path / "VOC2007")
    first, second, *_ = lines(data / "ImageSets/Main/train.txt")
    (data / "JPEGImages" / f"{first}.jpg").unlink()
    (data / "JPEGImages" / f"{second}.jpg").write_bytes(b"no picture")
    done = train(data, tmp_path / "run", "--epochs", "1", "--val-split", "none", "--workers", "1")
    assert done.returncode == 0, done.stderr
    before, _, after = done.stderr.partition("device")
    assert "yolo, 20 classes, input 64x64" in before
    assert "dog 3, cat 4" in before or "cat 4, dog 3" in before
    assert "no object of 18 classes" in before
    assert "left out: 1 missing image, 1 broken image" in " ".join(before.split())
    assert f"{first}" in before.partition("left out")[2]
    assert f"another image takes its place: {data / 'JPEGImages' / second}.jpg" in after

    tuned = train(
        voc, tmp_path / "tuned", "--epochs", "1", "--weights", str(tmp_path / "run" / "best.safetensors")
    )
    assert tuned.returncode == 0, tuned.stderr
    assert "layers fit" in tuned.stderr


def test_names_are_shown_as_they_are(yolo: Path, tmp_path: Path) -> None:
    """Neither rich's markup nor the terminal's: a class, a file and a folder may be called anything."""
    broken = sorted((yolo / "images" / "train").iterdir())[0]
    broken.write_bytes(b"no picture")
    broken.rename(broken.with_name("x[red]\x1b]0;title\x07.jpg"))
    label = yolo / "labels" / "train" / f"{broken.stem}.txt"
    label.rename(label.with_name("x[red]\x1b]0;title\x07.txt"))
    done = train(f"yolo:{yolo}", tmp_path / "ru[/bold]n", "--epochs", "1", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    assert "c[/b]at\\x1b[31m 7" in done.stderr or "c[/b]at\\x1b[31m 8" in done.stderr
    assert "ru[/bold]n" in done.stdout
    assert "\x1b" not in done.stderr + done.stdout
    assert "\x07" not in done.stderr + done.stdout


def test_a_stop_within_a_validation_repeats_it(voc: Path, tmp_path: Path) -> None:
    class Asking(Dataset):
        """Asks the process to end as soon as it is validated on."""

        def image(self, index: int) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().image(index)

    train_data = open_dataset(f"voc:{voc}", "train")
    val = open_dataset(f"voc:{voc}", "val", classes=train_data.classes)
    asking = Asking(val.name, val.classes, val.truths)

    def trainer(data: Dataset, stop: StopRequest) -> Trainer:
        model = build("yolo", len(train_data.classes), pretrained=False, size=[64, 64])
        spec = make_spec("yolo", model, train_data.classes, size=(64, 64))
        recipe = Recipe(batch=4, epochs=1)
        folder = RunFolder(tmp_path)
        return Trainer(model, spec, train_data, data, recipe, folder, one, workers=0, stop=stop)

    with join("cpu") as one:
        stop = StopRequest()
        stopped = trainer(asking, stop)
        with pytest.raises(Stopped, match="SIGTERM"), stop.handled():
            list(stopped.run())
        assert (stopped.progress.epoch, stopped.progress.batch, stopped.progress.step) == (0, 2, 2)
        again = trainer(val, StopRequest())
        again.resume()
        events = list(again.run())
    assert [e["validation"] for e in events] == [0]
    assert (again.progress.epoch, again.progress.step, again.progress.finished) == (1, 2, True)
