"""`edgedet info`: what each kind of file says of itself, and what a damaged one gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedet.calib.scales import Range, Scales
from edgedet.cli.info import READERS, describe
from edgedet.contract.errors import (
    CalibrationError,
    DataError,
    EngineError,
    SpecError,
    UsageError,
    WeightsError,
)
from edgedet.contract.spec import SPEC_KEY
from edgedet.runtime.engines.onnx_metadata import read_spec


@pytest.fixture
def weights(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """A real safetensors file with a spec."""
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors (extra train)")
    tensors = {"a": np.zeros((3, 4), np.float16), "b": np.ones(5, np.float32)}
    numpy.save_file(
        tensors, tmp_path / "w.safetensors", metadata={SPEC_KEY: read_spec(tiny_model()).to_json()}
    )
    return tmp_path / "w.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A real calibration cache."""
    ranges = {"x": Range(-1.0, 2.0), "y": Range(0.0, 6.0)}
    Scales("abc123", "voc:train", 500, "minmax", 380, ranges, (0.5, 0.25)).save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_an_onnx_model(cli: Any, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model("int8")
    found = json.loads(cli("edgedet", "info", path, "--json").stdout)
    assert found["kind"] == "ONNX model"
    assert found["bytes"] == path.stat().st_size
    assert found["spec"] == json.loads(read_spec(path).to_json())
    text = cli("edgedet", "info", path).stdout
    for part in (
        "yolo, detection, int8",
        "images: 64 wide x 64 high, RGB, float32 NCHW, stretch, batch 1",
        "2: thing, other",
    ):
        assert part in text


def test_a_line_for_each_tensor_and_none_for_a_table(tmp_path: Path, cli: Any) -> None:
    from edgedet.contract.spec import Decode, Input, ModelSpec, Output, Proposals, Stage, Tensor

    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors (extra train)")
    levels = tuple(Tensor(f"level{i}", "features", (None, 8, n, n)) for i, n in enumerate((8, 4)))
    kept, masks = Tensor("kept", "boxes", (None, 4, 4)), Tensor("logits", "masks", (None, 4, 2, 28, 28))
    spec = ModelSpec(
        model="m",
        task="instance",
        input=Input("images", 64, 64, (0, 0, 0), (1, 1, 1)),
        outputs=(Output("deltas", "deltas", (None, 9, 4)), *levels),
        decode=Decode("anchors", {"shapes": [[[32.0, 32.5], [45.25, 22.75]]] * 3, "strides": [8, 16]}),
        classes=("a", "b"),
        extra_inputs=(Tensor("rois", "proposals", (None, 9, 4)),),
        proposals=Proposals("selective_search", 9, {"side": 320}),
        stages=(Stage("masks", "m-masks.onnx", (*levels, kept), (masks,)),),
    )
    path = tmp_path / "w.safetensors"
    numpy.save_file({"a": np.zeros(3, np.float32)}, path, metadata={SPEC_KEY: spec.to_json()})
    lines = [" ".join(line.split()) for line in cli("edgedet", "info", path).stdout.splitlines()]
    for line in (
        "also takes rois: proposals, N x 9 x 4, float32",
        "output deltas: deltas, N x 9 x 4, float32",
        "output 3 level1: features, N x 8 x 4 x 4, float32",
        "then masks m-masks.onnx",
        "masks input 3 kept: boxes, N x 4 x 4, float32",
        "masks output logits: masks, N x 4 x 2 x 28 x 28, float32",
        "proposals the best 9 of selective_search side 320",
        "decode anchors shapes 3 x 2 x 2 numbers, strides [8, 16]",
    ):
        assert line in lines, line
    assert "45.25" not in "".join(lines)


def test_weights_are_read_without_their_library(cli: Any, weights: Path) -> None:
    found = json.loads(cli("edgedet", "info", weights, "--json").stdout)
    assert (found["kind"], found["tensors"], found["values"], found["types"]) == (
        "weights",
        2,
        17,
        ["F16", "F32"],
    )
    assert found["spec"]["model"] == "yolo"


def test_a_calibration_cache(cli: Any, cache: Path) -> None:
    found = json.loads(cli("edgedet", "info", cache, "--json").stdout)
    assert found == {
        "file": str(cache),
        "kind": "calibration cache",
        "bytes": cache.stat().st_size,
        "graph": "abc123",
        "data": "voc:train",
        "images": 500,
        "method": "minmax",
        "settled_after": 380,
        "tensors": 2,
    }


def test_a_missing_and_a_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        describe(tmp_path / "absent.onnx")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"knows \.onnx"):
        describe(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("x.onnx", EngineError),
        ("x.safetensors", WeightsError),
        ("x.json", CalibrationError),
        ("x.plan", (EngineError, SpecError)),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"garbage that is none of these"])
def test_garbage_is_named(tmp_path: Path, name: str, error: Any, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        describe(tmp_path / name)


def test_truncated_and_lengthened_weights(weights: Path) -> None:
    data = weights.read_bytes()
    for changed in (data[:-1], data[: len(data) // 2], data + b"x"):
        weights.write_bytes(changed)
        with pytest.raises(WeightsError, match="not a whole safetensors file"):
            describe(weights)


@pytest.mark.parametrize("name", ["folder.onnx", "pipe.json", "pipe.safetensors", "pipe.plan", "a/b.onnx"])
def test_what_is_no_file_is_named_and_not_waited_for(cli: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a").write_bytes(b"")
    for ending in ("json", "safetensors", "plan"):
        os.mkfifo(tmp_path / f"pipe.{ending}")
    done = cli("edgedet", "info", tmp_path / name)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error [DataError]: Cannot read {tmp_path / name}: ")


def test_what_steers_a_terminal_is_shown_escaped(cli: Any, tmp_path: Path, tiny_model: Any) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
    made = onnx.load(tiny_model())
    spec = read_spec(tiny_model()).with_(classes=("cat\x1b]0;title\x07\x1b[2J", "a\u202eb", "Hündchen [/b]"))
    onnx.helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
    onnx.save(made, tmp_path / "m.onnx")
    done = cli("edgedet", "info", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert r"cat\x1b]0;title\x07\x1b[2J, a\u202eb, Hündchen [/b]" in done.stdout


def test_weights_without_a_spec(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors (extra train)")
    numpy.save_file({"a": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(SpecError, match="carries no edgedet spec"):
        describe(tmp_path / "w.safetensors")


def test_every_kind_has_a_reader() -> None:
    assert {".onnx", ".safetensors", ".json", ".engine", ".plan", ".trt"} == set(READERS)
