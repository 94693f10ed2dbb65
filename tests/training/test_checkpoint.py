"""Weights that two models have in common lie in one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgedet.contract.errors import WeightsError  # noqa: E402
from edgedet.contract.tensor_file import BASE_KEY, read_tensor_file  # noqa: E402
from edgedet.models import build, make_spec  # noqa: E402
from edgedet.models.base import Model  # noqa: E402
from edgedet.training.checkpoint import load_model, read, save_model, start_from, write_tensors  # noqa: E402

OPTIONS = {"size": [64, 64]}


def save(path: Path, model: Model, classes: int, **how: object) -> None:
    path.parent.mkdir(exist_ok=True)
    names = tuple(f"class {i}" for i in range(classes))
    spec = make_spec("yolo", model, names, size=(64, 64))
    save_model(path, model.state_dict(), spec, OPTIONS, half=True, **how)  # type: ignore[arg-type]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Model]:
    """A file, one that leaves its backbone to it, and the model of the second."""
    torch.manual_seed(0)
    first, second = (build("yolo", n, pretrained=False, **OPTIONS) for n in (3, 2))
    second.backbone.load_state_dict(first.backbone.state_dict())
    one, two = tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors"
    save(one, first, 3)
    save(two, second, 2, base=one)
    return one, two, second


def test_what_is_in_the_base_is_not_stored_twice(pair: tuple[Path, Path, Model]) -> None:
    one, two, model = pair
    stored = read_tensor_file(two).tensors
    assert "head.3.weight" in stored, "of the same name, and other values"
    assert not any(name.startswith("backbone.") and name.endswith("weight") for name in stored)
    found, spec = load_model(two)
    assert len(spec.classes) == 2
    for name, value in model.state_dict().items():
        half = value.half().to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(found.state_dict()[name], half), name
    other = build("yolo", 2, pretrained=False, **OPTIONS)
    assert start_from(other, two) == []
    for name, value in other.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, read(one)[0][name].to(value.dtype)), name


def test_both_files_can_be_copied_but_not_one(pair: tuple[Path, Path, Model], tmp_path: Path) -> None:
    one, two, model = pair
    for path in pair[:2]:
        copy = tmp_path / "copy" / path.parent.name / path.name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    load_model(copy)
    save(one, model, 2)
    with pytest.raises(WeightsError, match=r"one/model\.safetensors is not the file that .*two.* \(sha256\)"):
        load_model(two)
    one.unlink()
    with pytest.raises(WeightsError, match=r"two/model\.safetensors leaves tensors to another file\. Cannot"):
        load_model(two)


@pytest.mark.parametrize(
    "damage",
    [
        lambda said: "{",
        lambda said: "[]",
        lambda said: json.dumps(said | {"file": 3}),
        lambda said: json.dumps(said | {"file": "/etc/passwd"}),
        lambda said: json.dumps(said | {"tensors": [1]}),
        lambda said: json.dumps(said | {"tensors": None}),
        lambda said: json.dumps({"file": said["file"]}),
    ],
)
def test_a_base_that_is_not_said_plainly_is_refused(
    pair: tuple[Path, Path, Model], damage: Callable[[dict[str, object]], str]
) -> None:
    _, two, _ = pair
    metadata = read_tensor_file(two).metadata
    text = damage(json.loads(metadata[BASE_KEY]))
    write_tensors(two, {"x": torch.zeros(1)}, metadata | {BASE_KEY: text})
    with pytest.raises(WeightsError, match="does not say which file holds the rest of its tensors"):
        read(two)


def test_names_that_the_base_lacks_are_refused(pair: tuple[Path, Path, Model]) -> None:
    _, two, _ = pair
    metadata = read_tensor_file(two).metadata
    said = json.loads(metadata[BASE_KEY])
    text = json.dumps(said | {"tensors": ["nothing"]})
    write_tensors(two, {"x": torch.zeros(1)}, metadata | {BASE_KEY: text})
    with pytest.raises(WeightsError, match="is not the file that"):
        read(two)
