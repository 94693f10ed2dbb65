"""R-CNN's training to its end: killed in each of its stages and run again, it gives the same network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_runs import ENVIRONMENT, command

from edgedet.contract.boxes import encode_deltas
from edgedet.data import Dataset, Truth
from edgedet.models import build
from edgedet.models.rcnn import Rcnn
from edgedet.training.checkpoint import load_model, read
from edgedet.training.rcnn import RcnnStages, digest
from edgedet.training.region_store import RegionStore
from edgedet.training.ridge import Ridge
from edgedet.training.run_folder import RunFolder

SMALL = ("--model", "rcnn", "--epochs", "1", "--size", "64x96", *("--option", "proposals=12"))
SMALL = (*SMALL, "--option", "rows=4", "--option", "side=32", "--option", "width=8", "--option", "sampled=4")

KILLING = """
import os, signal, sys
from edgedet.training import rcnn
stage, at = sys.argv[1], int(sys.argv[2])
event = rcnn.event

def killing(name, done, *more):
    if name == stage and done == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return event(name, done, *more)

rcnn.event = killing
from edgedet.cli.main import main
sys.argv = ["edgedet", *sys.argv[5:]]
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )


def train(voc: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(*command(voc, folder, *SMALL, *more))


@pytest.fixture(scope="module")
def unbroken(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rcnn") / "unbroken"
    done = train(voc, folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    return folder


def test_what_is_saved_is_an_r_cnn_with_svms_and_regression(unbroken: Path) -> None:
    model, spec = load_model(unbroken / "best.safetensors")
    assert isinstance(model, Rcnn)
    assert spec.proposals is not None and spec.proposals.count == 12
    cat, dog, cow = (spec.classes.index(name) for name in ("cat", "dog", "cow"))
    assert model.svm.weight[cat].any() and model.svm.weight[dog].any()
    assert not model.svm.weight[cow].any() and model.svm.bias[cow] < -5  # nobody has seen one
    assert not model.deltas.weight[4 * cow : 4 * cow + 4].any()
    assert any(name.startswith("AP50") for name in spec.metrics)
    assert len((unbroken / "epochs.jsonl").read_text().splitlines()) == 1
    assert not (unbroken / "stages").exists()


@pytest.mark.slow
def test_kill_9_in_each_stage_and_the_same_command_give_the_same_network(
    voc: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    # in the middle of the features; of the third class's SVM; of the regressions
    for stage, at in (("features", 4), ("svm", 2 * 8 + 5), ("boxes", 9)):
        done = run("-c", KILLING, stage, str(at), *command(voc, folder, *SMALL))
        assert done.returncode == -signal.SIGKILL, (stage, done.stderr)
        assert not (folder / "best.safetensors").exists()
    # nothing is done twice: each stage went on where it was
    kept = {p.name: p.stat().st_mtime_ns for p in (folder / "stages").rglob("*.safetensors")}
    assert len([name for name in kept if name.startswith("svm")]) == 20
    again = train(voc, folder)
    assert again.returncode == 0, again.stderr
    assert "going on from epoch 1" in again.stderr
    first, second = (read(f / "best.safetensors")[0] for f in (unbroken, folder))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert not (folder / "stages").exists()
    finished = train(voc, folder)
    assert finished.returncode == 0 and "this run is finished" in finished.stderr


def test_the_size_is_said_beforehand(voc: Path, tmp_path: Path) -> None:
    done = train(voc, tmp_path / "run", "--limit", "4", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    assert "features of 12 regions an image, 0.00 GiB on disk until the run is finished" in done.stderr
    assert "20 SVMs, positive from IoU 0.3, negative below 0.3" in done.stderr


def test_patience_has_nothing_to_wait_for(voc: Path, tmp_path: Path) -> None:
    done = train(voc, tmp_path / "run", "--patience", "3")
    assert done.returncode == 2
    assert "waits for a better validation" in done.stderr


def test_a_damaged_or_foreign_file_counts_as_none(tmp_path: Path) -> None:
    store = RegionStore(tmp_path, 6)
    boxes, objects = torch.rand(5, 4), torch.rand(2, 4)
    assert 3 not in store
    store.write(3, torch.rand(5, 6), boxes, objects)
    assert 3 in store
    assert torch.equal(store.boxes(3)[0], boxes) and torch.equal(store.boxes(3)[1], objects)
    assert store.features(3).dtype == torch.float32
    assert 3 not in RegionStore(tmp_path, 7)
    size = store.path(3).stat().st_size
    assert abs(store.bytes_of(5) - size) < 600
    store.path(3).write_bytes(store.path(3).read_bytes()[:-1])
    assert 3 not in store


def test_features_of_other_weights_are_neither_counted_nor_kept(tmp_path: Path) -> None:
    """They are gigabytes, and nothing but their own weights can use them."""
    model = build("rcnn", 2, pretrained=False, proposals=4, rows=4, side=32, width=8)
    truth = Truth(Path("a.jpg"), np.zeros((1, 4), np.float32), np.zeros(1, np.int64), np.zeros(1, bool))
    trainer = SimpleNamespace(
        average=model, train=Dataset("one", ("a", "b"), [truth]), folder=RunFolder(tmp_path)
    )
    stages = RcnnStages(trainer)  # type: ignore[arg-type]
    needed = stages.file_bytes()
    other = tmp_path / "stages" / "0123456789abcdef" / "features" / "000000.safetensors"
    own = tmp_path / "stages" / digest(model) / "svm-000.safetensors"
    for file in (other, own):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(100))
    assert stages.file_bytes() == needed - 100
    stages.shared(1, 2)
    assert other.exists(), "the main process removes them"
    stages.shared(0, 2)
    assert own.exists()
    assert not other.exists()


def test_the_regression_of_deltas_moves_boxes_to_their_objects() -> None:
    """Features that say how far a region is off: after the regression it is no longer."""
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(rng.uniform(0, 40, (200, 4)).astype(np.float32))
    boxes[:, 2:] += boxes[:, :2] + 30
    objects = boxes + torch.from_numpy(rng.normal(0, 3, (200, 4)).astype(np.float32))
    wanted = encode_deltas(objects, boxes).numpy()
    features = np.concatenate([wanted @ rng.normal(size=(4, 4)), rng.normal(size=(200, 2))], axis=1)
    ridge = Ridge(6)
    ridge.add(features, wanted)
    weight, bias = ridge.solve(1e-6)
    np.testing.assert_allclose(features @ weight.T + bias, wanted, atol=1e-3)


def test_two_processes_share_the_features_and_one_goes_on(voc: Path, tmp_path: Path) -> None:
    """Each has norms of its own: the features must all be of the main one's network."""
    folder, script = tmp_path / "two", tmp_path / "killing.py"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    script.write_text(KILLING)
    killed = run(*launch, str(script), "boxes", "3", *command(voc, folder, *SMALL))
    assert killed.returncode == 1, killed.stderr
    (stages,) = (folder / "stages").iterdir()
    assert len(list((stages / "features").iterdir())) == 8
    again = run(*launch, *command(voc, folder, *SMALL))
    assert again.returncode == 0, again.stderr
    model, _ = load_model(folder / "best.safetensors")
    assert isinstance(model, Rcnn) and model.svm.weight.any() and model.deltas.weight.any()
    assert not (folder / "stages").exists()
