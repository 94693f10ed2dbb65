"""What one optimiser step is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from torch import Tensor  # noqa: E402

from edgedet.data import open_dataset  # noqa: E402
from edgedet.data.augment import ObjectCrop  # noqa: E402
from edgedet.models import build, make_spec  # noqa: E402
from edgedet.training.loop import Trainer  # noqa: E402
from edgedet.training.processes import join  # noqa: E402
from edgedet.training.recipe import Recipe  # noqa: E402
from edgedet.training.run_folder import RunFolder  # noqa: E402


def trainer(voc: Path, folder: Path, **recipe: int) -> Trainer:
    """YOLO at 64 px on `voc`, without validation: 8 images."""
    data = open_dataset(f"voc:{voc}", "train")
    model = build("yolo", len(data.classes), pretrained=False, size=[64, 64])
    spec = make_spec("yolo", model, data.classes, size=(64, 64))
    numbers = {"batch": 4, "epochs": 1} | recipe
    with join("cpu") as one:
        return Trainer(model, spec, data, None, Recipe(**numbers), RunFolder(folder), one, workers=0)  # type: ignore[arg-type]


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


def test_the_last_epochs_are_mild(voc: Path, tmp_path: Path) -> None:
    run = trainer(voc, tmp_path, epochs=5, mild_epochs=2)
    samples = run.batches.samples
    used = [
        [t.least for t in samples.transform_in(e).transforms if isinstance(t, ObjectCrop)] for e in range(5)
    ]
    assert used == [[0.3]] * 3 + [[0.75]] * 2
    run = trainer(voc, tmp_path / "without", epochs=2)
    assert run.batches.samples.transform_in(1) is run.batches.samples.transform_in(0)
