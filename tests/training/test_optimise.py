"""What one optimiser step is made of."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from torch import Tensor  # noqa: E402
from training_runs import lines, train  # noqa: E402

from edgedet.contract.errors import TrainingError  # noqa: E402
from edgedet.data import open_dataset  # noqa: E402
from edgedet.data.augment import ObjectCrop  # noqa: E402
from edgedet.models import build, make_spec  # noqa: E402
from edgedet.training.checkpoint import load_model  # noqa: E402
from edgedet.training.loop import Trainer  # noqa: E402
from edgedet.training.processes import join  # noqa: E402
from edgedet.training.recipe import Recipe  # noqa: E402
from edgedet.training.run_folder import RunFolder  # noqa: E402


def trainer(voc: Path, folder: Path, *, amp: str = "off", **recipe: Any) -> Trainer:
    """YOLO at 64 px on `voc`, without validation: 8 images."""
    data = open_dataset(f"voc:{voc}", "train")
    model = build("yolo", len(data.classes), pretrained=False, size=[64, 64])
    spec = make_spec("yolo", model, data.classes, size=(64, 64))
    numbers = {"batch": 4, "epochs": 1} | recipe
    with join("cpu") as one:
        place = RunFolder(folder)
        place.path.mkdir(exist_ok=True)
        return Trainer(model, spec, data, None, Recipe(**numbers), place, one, workers=0, amp=amp)


def test_a_step_minimises_what_the_model_says_and_each_epoch_tells_it_how_far_it_is(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(voc, tmp_path, epochs=4)
    shares: list[float] = []
    monkeypatch.setattr(run.model, "begin_epoch", shares.append)
    bias = run.model.head[3].bias

    def with_the_truth_at_hand(images: Tensor, targets: list) -> dict[str, Tensor]:
        assert images.shape == (4, 3, 64, 64)
        assert len(targets) == 4
        return {"pull": (bias - 3).square().sum()}

    monkeypatch.setattr(run.model, "training_loss", with_the_truth_at_hand)
    before = (bias - 3).abs().sum().item()
    events = list(run.run())
    assert shares == [0.0, 0.25, 0.5, 0.75]
    assert events[0]["pull"] == events[0]["loss"]
    assert (bias - 3).abs().sum().item() < before


def poisoned(run: Trainer, monkeypatch: pytest.MonkeyPatch, steps: Sequence[int]) -> None:
    """In these steps the loss is finite, its gradient is not: the slope of a square root at zero."""
    plain = run.model.training_loss

    def loss(images: Tensor, targets: list) -> dict[str, Tensor]:
        terms = plain(images, targets)
        if run.progress.step in steps:
            terms["poison"] = (run.model.head[3].weight.sum() * 0).sqrt()
        return terms

    monkeypatch.setattr(run.model, "training_loss", loss)


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_gradient_that_is_not_finite_changes_nothing(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str
) -> None:
    run = trainer(voc, tmp_path, epochs=5, amp=amp)
    poisoned(run, monkeypatch, (6, 7))
    states, skipped = [], []
    for event in run.run():
        assert ("gradient_norm" in event) != ("skipped" in event)
        skipped.append("skipped" in event)
        states.append({k: v.clone() for k, v in run.average.state_dict().items()})
        states[-1] |= {f"model.{k}": p.detach().clone() for k, p in run.model.named_parameters()}
    assert skipped[4:] == [False, False, True, True, False, False]
    assert not any(skipped[:4]) or amp == "fp16"  # whose first gradients are too large for its scale
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in itertools.pairwise(states)]
    assert same == skipped[1:]
    assert all(bool(torch.isfinite(v).all()) for v in states[-1].values())
    assert run.progress.skipped == sum(skipped)
    assert all(
        math.isfinite(v) for line in lines(tmp_path / "steps.jsonl") for v in json.loads(line).values()
    )
    again = trainer(voc, tmp_path, epochs=5, amp=amp)
    again.resume()
    assert again.progress.skipped == run.progress.skipped


def test_gradients_that_stay_so_end_the_run_with_what_was_good(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(voc, tmp_path, epochs=40)
    poisoned(run, monkeypatch, range(4, 80))
    with pytest.raises(TrainingError, match=r"not finite in 20 steps in a row, to step 23 .*20 steps were"):
        list(run.run())
    assert load_model(tmp_path / "best.safetensors")
    assert all(
        bool(torch.isfinite(v).all()) for v in run.model.state_dict().values() if v.is_floating_point()
    )


def test_skipped_steps_are_said(voc: Path, tmp_path: Path) -> None:
    """float16 on a CPU has no gradient scale that fits at once: its first steps are skipped."""
    done = train(voc, tmp_path, "--amp", "fp16", "--epochs", "1", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    skipped = sum("skipped" in json.loads(line) for line in lines(tmp_path / "steps.jsonl"))
    assert done.stderr.count("is skipped: its gradient is not finite") == skipped
    assert (f"{skipped} were skipped" in done.stdout) == (skipped > 0)


def test_patience_without_a_validation_is_refused(voc: Path, tmp_path: Path) -> None:
    done = train(voc, tmp_path / "run", "--patience", "3", "--val-split", "none")
    assert done.returncode == 2
    assert "--patience 3 waits for a better validation, and there is none" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_last_epochs_are_mild(voc: Path, tmp_path: Path) -> None:
    run = trainer(voc, tmp_path, epochs=5, mild_epochs=2)
    samples = run.batches.samples
    used = [
        [t.least for t in samples.transform_in(e).transforms if isinstance(t, ObjectCrop)] for e in range(5)
    ]
    assert used == [[0.3]] * 3 + [[0.75]] * 2
    run = trainer(voc, tmp_path / "without", epochs=2)
    assert run.batches.samples.transform_in(1) is run.batches.samples.transform_in(0)
