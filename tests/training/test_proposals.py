"""edgedet-train and edgedet-eval of a model that looks at proposals: one and several processes, the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import ENVIRONMENT, command, lines, train

from edgedet.contract.proposals import CachedProposer, SelectiveSearch
from edgedet.contract.spec import SPEC_KEY, ModelSpec
from edgedet.data import open_dataset

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from edgedet.data.augment import detection_transform  # noqa: E402
from edgedet.training.batches import Loader, Order, Samples  # noqa: E402
from edgedet.training.checkpoint import read  # noqa: E402

FAST = ("--model", "fast-rcnn", "--epochs", "1", "--option", "proposals=30")


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_with_its_proposals(voc: Path, tmp_path: Path, workers: int) -> None:
    data = open_dataset(f"voc:{voc}", "train")
    transform = detection_transform((72, 96), train=False, fill=(0, 0, 0))
    proposer = CachedProposer(SelectiveSearch(), tmp_path)
    samples = Samples(data, transform, seed=0, proposer=proposer, regions=12)
    expected = {}
    for index in range(len(data)):
        image = data.image(index)  # as it is on disk, in BGR
        rows = np.zeros((12, 4), np.float32)
        found = SelectiveSearch()(image)[:12]
        rows[: len(found)] = found
        expected[image[..., ::-1].tobytes()] = rows
    seen = 0
    for images, targets, _ in Loader(samples, Order(len(data), 2, seed=0), workers):
        for image, target in zip(images, targets, strict=True):
            want = expected[image.permute(1, 2, 0).numpy().tobytes()]
            np.testing.assert_allclose(target.proposals, want, atol=1e-4)
            seen += 1
    assert seen == len(data) == len(files(tmp_path))


def test_a_run_and_its_evaluation_share_a_cache(voc: Path, tmp_path: Path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "run"
    done = train(voc, folder, *FAST, "--proposals-cache", str(cache), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["measure"]) == (4, "AP")
    step = json.loads(lines(folder / "steps.jsonl")[-1])
    assert step["loss"] == pytest.approx(step["class"] + step["box"])
    assert len(files(cache)) == 8 + 4  # train, val
    assert not (folder / "proposals").exists()
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings["proposals"] == SelectiveSearch().identity()
    spec = ModelSpec.from_json(read(folder / "best.safetensors")[1][SPEC_KEY])
    assert spec.proposals is not None
    assert spec.proposals.count == 30

    # what is in the cache is what is looked at: with nothing in it, nothing is found
    call = ["eval", str(folder / "best.safetensors"), "--data", f"voc:{voc}", "--json"]
    found = []
    for empty in (False, True):
        if empty:
            for file in files(cache):
                np.save(file, np.zeros((0, 4), np.float32))
        shown = subprocess.run(
            [sys.executable, "-m", "edgedet", *call, "--proposals-cache", str(cache)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert shown.returncode == 0, shown.stderr
        found.append(json.loads(shown.stdout)["results"][0])
    assert found[0]["ap11"] == pytest.approx(result["best"])
    assert [sum(c["detections"] for c in f["classes"]) > 0 for f in found] == [True, False]


def test_two_processes(voc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, *command(voc, folder, *FAST)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert len(lines(folder / "steps.jsonl")) == 4
    assert len(files(folder / "proposals")) == 8 + 4
    assert read(folder / "best.safetensors")[0]


def test_other_proposals_are_another_run(voc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(voc, folder, *FAST).returncode == 0
    again = train(voc, folder, *FAST[:-1], "proposals=31")
    assert again.returncode == 1
    assert "recipe.model.proposals was 30, is now 31" in again.stderr
