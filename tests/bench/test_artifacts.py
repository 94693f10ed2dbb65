"""Which files a comparison measures: weights by name, exports that are used again, and those that are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console

from edgedet import weights
from edgedet.bench.artifacts import Exports, Weights, detectors, find_weights, parse_weights
from edgedet.contract.errors import SpecError, UnknownName, UsageError, WeightsError
from edgedet.contract.spec import SPEC_KEY, ModelSpec
from edgedet.data import open_dataset
from edgedet.export.console import LabelledConsole


def test_the_family_comes_first_and_all_say_boxes() -> None:
    found = detectors()
    family = [n for n in found if n in ("rcnn", "fast-rcnn", "faster-rcnn")]
    assert found[: len(family)] == family
    assert {"faster-rcnn", "mask-rcnn", "yolo", "ssd"} <= set(found)
    assert not {"localizer", "fcn", "unet", "deeplabv3plus"} & set(found)


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["yolo"], UsageError, "is not NAME=FILE"),
        (["yolo="], UsageError, "is not NAME=FILE"),
        (["yolo=a", "yolo=b"], UsageError, "given twice"),
        (["yollo=a"], UnknownName, "Did you mean 'yolo'"),
        (["fcn=a"], UsageError, "fcn is no detector"),
    ],
)
def test_weights_that_cannot_be_meant(texts: list[str], error: type[UsageError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse_weights(texts)


def test_weights_by_name() -> None:
    assert parse_weights(["yolo=a=b", "ssd=c"]) == {"yolo": Path("a=b"), "ssd": Path("c")}


def test_what_has_no_weights_is_named_with_what_to_do() -> None:
    found, missing = find_weights({})
    assert list(found) == [n for n in detectors() if n in weights.shipped()]
    for name, one in found.items():
        assert one.spec.model == name
        assert one.sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()
    assert [m.what for m in missing] == [n for n in detectors() if n not in weights.shipped()]
    for m in missing:
        assert f"edgedet-train --model {m.what}" in m.why
        assert f"--weights {m.what}=" in m.why
        assert not m.failed


def test_weights_given_come_before_those_shipped_and_must_be_the_models(tmp_path: Path) -> None:
    yolo = weights.find("yolo")
    with pytest.raises(WeightsError, match="holds weights of 'yolo', not of 'ssd'"):
        find_weights({"ssd": yolo})
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        find_weights({"ssd": tmp_path / "none.safetensors"})
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "other.safetensors")
    with pytest.raises(SpecError, match="carries no edgedet spec"):
        find_weights({"ssd": tmp_path / "other.safetensors"})
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(yolo.read_bytes())
    assert find_weights({"yolo": copy})[0]["yolo"].path == copy


class Left:
    """A folder with what an export of the tiny model leaves, and the weights that it was made of."""

    def __init__(self, folder: Path, tiny_model: Callable[..., Path], data: Path) -> None:
        self.folder = folder
        for precision, name in (("fp32", "yolo.onnx"), ("int8", "yolo-int8.onnx")):
            made = onnx.load(tiny_model(precision))
            (props,) = made.metadata_props
            spec = ModelSpec.from_json(props.value)
            spec = spec.with_(provenance=replace(spec.provenance, weights_sha256="abc"))
            onnx.helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
            onnx.save(made, folder / name)
        self.weights = Weights(folder / "model.safetensors", spec, "abc")
        self.data = open_dataset(f"voc:{data}", "val")
        self.report: dict[str, Any] = {
            "target": "onnxruntime",
            "wrote": ["yolo.onnx", "yolo-int8.onnx", "yolo-int8.report.json"],
            "facts": {"accuracy": {"data": self.data.name}},
            "verdict": {"measure": "AP", "reference": 60.0, "quantised": 59.0, "allowed": 59.5, "why": ""},
        }

    def found(self, *, library: str = "onnxruntime", limit: int | None = None, **changes: Any) -> Any:
        report = json.dumps({**self.report, **changes})
        (self.folder / "yolo-int8.report.json").write_text(report)
        console = LabelledConsole(Console(), quiet=True)
        exports = Exports(self.folder, "voc:x", None, limit, (self.data,), self.folder, console)
        return exports._left(self.weights, library)


@pytest.fixture
def left(tmp_path: Path, tiny_model: Callable[..., Path], bright: Path) -> Left:
    return Left(tmp_path, tiny_model, bright)


def test_what_an_export_left_is_used_again(left: Left) -> None:
    artifacts, missing = left.found()
    assert [(a.file.name, a.spec.precision) for a in artifacts] == [
        ("yolo.onnx", "fp32"),
        ("yolo-int8.onnx", "int8"),
    ]
    assert artifacts[0].size == (left.folder / "yolo.onnx").stat().st_size
    assert missing == []


def test_an_int8_that_was_refused_is_missing_with_the_figures(left: Left) -> None:
    artifacts, (refused,) = left.found(wrote=["yolo.onnx"])
    assert [a.spec.precision for a in artifacts] == ["fp32"]
    assert (refused.what, refused.failed) == ("yolo, INT8", True)
    assert "59.00 AP, at least 59.50 is allowed (FP32 has 60.00)" in refused.why
    unmeasured = {"quantised": None, "why": "no images to measure on"}
    _, (refused,) = left.found(wrote=["yolo.onnx"], verdict=unmeasured)
    assert "could not be measured by the export: no images to measure on" in refused.why


def test_what_was_made_of_something_else_is_not_used(left: Left) -> None:
    assert left.found(library="openvino") is None
    assert left.found(verdict=None, wrote=["yolo.onnx"]) is None
    assert left.found(wrote=[]) is None
    mine = left.weights
    left.weights = replace(mine, sha256="abd")
    assert left.found() is None
    left.weights = replace(mine, spec=mine.spec.with_(input=replace(mine.spec.input, height=96)))
    assert left.found() is None
    left.weights = mine
    assert left.found() is not None
    (left.folder / "yolo-int8.onnx").write_bytes(b"damaged")
    assert left.found() is None
    (left.folder / "yolo-int8.onnx").unlink()
    assert left.found() is None


def test_the_gate_of_a_shorter_trial_does_not_count_for_all(left: Left) -> None:
    trial = {"accuracy": {"data": f"{left.data.name}, 4 of 8 images"}}
    assert left.found(facts=trial) is None
    assert left.found(facts=trial, limit=4) is not None
    assert left.found(facts=trial, limit=5) is None
    assert left.found(limit=4) is not None, "judged on all"
    why = f"FP32 itself has 0.00 AP on {left.data.name}, 4 of 8 images"
    refused = {"wrote": ["yolo.onnx"], "facts": {}, "verdict": {"quantised": None, "why": why}}
    assert left.found(**refused) is None
    assert left.found(**refused, limit=4) is not None
    assert left.found(facts={"accuracy": {"data": "100 frames of bikes.mp4"}}) is not None


def test_a_damaged_report_is_none(left: Left) -> None:
    assert left.found() is not None
    for text in ("", "[]", '{"target": "onnxruntime"}', "{", '{"target": 1, "target": 2}'):
        (left.folder / "yolo-int8.report.json").write_text(text)
        console = LabelledConsole(Console(), quiet=True)
        exports = Exports(left.folder, "voc:x", None, None, (left.data,), left.folder, console)
        assert exports._left(left.weights, "onnxruntime") is None
