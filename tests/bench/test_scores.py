"""Accuracy is measured once: what is remembered, and what is measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgedet.bench.scores
from edgedet.bench.artifacts import Artifact
from edgedet.bench.scores import Score, Scores
from edgedet.data import Dataset, open_dataset
from edgedet.evaluation import engine_under_test, evaluate
from edgedet.export.accuracy import fewer
from edgedet.runtime import open_engine, read_spec


@pytest.fixture
def data(bright: Path) -> Dataset:
    return open_dataset(f"voc:{bright}", "val")


@pytest.fixture
def artifact(onnx_file: Callable[..., Path]) -> Artifact:
    path = onnx_file("scored.onnx")
    return Artifact(path, "onnxruntime", read_spec(path))


def scores(folder: Path) -> Scores:
    return Scores(folder, threads=None, precision=None, progress=False)


@pytest.fixture
def no_more(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on nothing can be measured."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    return lambda: monkeypatch.setattr(edgedet.bench.scores, "evaluate", fail)


def test_it_is_what_evaluation_says(artifact: Artifact, data: Dataset, tmp_path: Path) -> None:
    with open_engine(artifact.file, engine="onnxruntime") as engine:
        truth = evaluate(engine_under_test(engine), data, coco=False, progress=False)
    found = scores(tmp_path).of(artifact, data)
    assert found.ap11 == truth.ap11
    assert 0.4 < (found.ap11 or 0) < 0.6, "all dogs, no cat"
    assert (found.images, found.classes, found.of) == (8, ("cat", "dog"), 2)
    assert (found.box_ap50, found.mask_ap50) == (None, None)


def test_a_figure_is_remembered_with_all_it_says(
    artifact: Artifact, data: Dataset, tmp_path: Path, no_more: Callable[[], None]
) -> None:
    first = scores(tmp_path).of(artifact, fewer(data, 4))
    no_more()
    assert scores(tmp_path).of(artifact, fewer(data, 4)) == first
    (kept,) = json.loads((tmp_path / "accuracy.json").read_text()).values()
    assert (kept["file"], kept["data"]) == ("scored.onnx", f"{data.name}, 4 of 8 images")


def test_what_a_figure_depends_on_is_measured_again(
    artifact: Artifact,
    data: Dataset,
    tmp_path: Path,
    no_more: Callable[[], None],
    onnx_file: Callable[..., Path],
) -> None:
    scores(tmp_path).of(artifact, data)
    no_more()
    other = onnx_file("other.onnx", shift=4.0)
    for a, d, threads in (
        (Artifact(other, "onnxruntime", artifact.spec), data, None),
        (Artifact(artifact.file, "openvino", artifact.spec), data, None),
        (artifact, fewer(data, 4), None),
    ):
        with pytest.raises(AssertionError, match="measured again"):
            Scores(tmp_path, threads=threads, precision=None, progress=False).of(a, d)


@pytest.mark.parametrize("damage", ["", "[]", "{", "edited", "other fields"])
def test_a_damaged_memory_is_none(artifact: Artifact, data: Dataset, tmp_path: Path, damage: str) -> None:
    first = scores(tmp_path).of(artifact, data)
    file = tmp_path / "accuracy.json"
    if damage == "edited":
        damage = file.read_text().replace(f'"ap11": {first.ap11}', '"ap11": "much"')
        assert "much" in damage
    elif damage == "other fields":
        damage = file.read_text().replace('"images"', '"pictures"')
    file.write_text(damage)
    assert scores(tmp_path).of(artifact, data) == first
    assert isinstance(first, Score)
