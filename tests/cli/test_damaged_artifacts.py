"""Damaged weights and calibration caches: a named error, never another value."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedet.calib.scales import Scales
from edgedet.cli.info import describe
from edgedet.contract.errors import CalibrationError, EdgedetError, WeightsError
from edgedet.contract.spec import SPEC_KEY
from edgedet.contract.tensor_file import read_tensor_file
from edgedet.runtime.engines.onnx_metadata import read_spec

CACHES = Path(__file__).parents[2] / "edgedet" / "weights"
VALUES = (b"0", b"9", b"-1", b"1e9", b"1e400", b"null", b'"3"', b"true", b"NaN", b"[]", b"{}", b"9" * 5000)


def mutated(data: bytes, rng: random.Random, within: int) -> bytes:
    """The bytes with one or two small accidents in the first `within`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at, length = rng.randrange(min(within, len(out))), rng.randrange(1, 40)
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at + 1 :]
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            other = rng.randrange(len(out))
            out[at:at] = out[other : other + length]
        elif kind == 4:
            digits = [i for i in range(min(within, len(out))) if 48 <= out[i] < 58]
            if digits:
                out[(at := rng.choice(digits)) : at + 1] = rng.choice(VALUES)
        else:
            out[at:at] = rng.choice((b"[" * 20_000, b'{"a":' * 5000, b"\x00", b"\xff", b"\xed\xa0\x80"))
        if len(out) < 2:
            break
    return bytes(out)


@pytest.mark.parametrize("name", ["yolo", "deeplabv3plus"])
def test_a_damaged_cache_is_never_believed(tmp_path: Path, name: str) -> None:
    whole = CACHES / name / "calibration.json"
    scales, data, rng = Scales.load(whole), whole.read_bytes(), random.Random(4)
    refused = 0
    for _ in range(400):
        (tmp_path / "c.json").write_bytes(mutated(data, rng, len(data)))
        try:
            assert Scales.load(tmp_path / "c.json") == scales  # a blank more or less
        except CalibrationError as e:
            assert "c.json" in e.message  # noqa: PT017
            refused += 1
    assert refused > 390


def test_a_cache_of_before_digests_loads(tmp_path: Path) -> None:
    raw = json.loads((CACHES / "yolo" / "calibration.json").read_text())
    del raw["sha256"]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(raw | {"version": 1}))
    shipped = Scales.load(CACHES / "yolo" / "calibration.json")
    assert replace(Scales.load(path), version=shipped.version) == shipped
    path.write_text(json.dumps(raw | {"version": 2}))
    with pytest.raises(CalibrationError, match="other fields"):
        Scales.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("graph", 1),
        ("images", True),
        ("images", 3.0),
        ("images", "3"),
        ("images", -1),
        ("settled", None),
        ("norms", {}),
        ("norms", [True]),
        ("norms", ["1"]),
        ("norms", [-1]),
        ("ranges", []),
        ("ranges", {"x": 1}),
        ("ranges", {"x": [0, "1"]}),
        ("ranges", {"x": [False, 1]}),
        ("ranges", {"x": [0, 1e39]}),
        ("ranges", {"x": [0, 1, 2]}),
        ("ranges", {"x": [1, 2]}),
        ("ranges", {"x": "01"}),
        ("more", 1),
    ],
)
def test_types_count_where_there_is_no_digest(tmp_path: Path, field: str, value: Any) -> None:
    raw = json.loads((CACHES / "yolo" / "calibration.json").read_text())
    del raw["sha256"]
    (tmp_path / "c.json").write_text(json.dumps(raw | {"version": 1, field: value}))
    with pytest.raises(CalibrationError, match=r"c\.json is not a whole calibration cache"):
        Scales.load(tmp_path / "c.json")


@pytest.fixture
def weights(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors (extra train)")
    tensors = {"a": np.zeros((3, 4), np.float16), "b": np.ones(5, np.float32)}
    path = tmp_path / "w.safetensors"
    numpy.save_file(tensors, path, metadata={SPEC_KEY: read_spec(tiny_model()).to_json()})
    return path


def with_header(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (entry("F33"), 4),
        (entry(1), 4),
        (entry(shape=[-1], offsets=[4, 0]), 4),
        (entry(shape=[True]), 4),
        (entry(shape="1"), 4),
        (entry(shape=[1 << 62] * 30), 4),
        (entry(shape=[1] * 40), 4),
        (entry(offsets=[0]), 4),
        (entry(offsets=[0, 8]), 8),
        (entry(offsets=[4, 8]), 8),
        (entry(offsets=[0.0, 4.0]), 4),
        (b'{"a": ' + entry()[6:-1] + b', "a": ' + entry()[6:], 4),
        (b'{"__metadata__": {"x": 1}}', 0),
        (b'{"__metadata__": []}', 0),
        (b'{"a": 1}', 0),
        (b"[]", 0),
        (b"[" * 50_000, 0),
        (b"\xff{}", 0),
        (b"", 0),
        (entry(), 0),
        (entry(), 5),
        (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
            6,
        ),
    ],
)
def test_a_header_that_cannot_be(tmp_path: Path, header: bytes, body: int) -> None:
    with pytest.raises(WeightsError, match=r"w\.safetensors is not a whole safetensors file"):
        read_tensor_file(with_header(tmp_path / "w.safetensors", header, bytes(body)))


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_length_that_is_not_the_headers(tmp_path: Path, length: int) -> None:
    with pytest.raises(WeightsError, match="not a whole"):
        read_tensor_file(with_header(tmp_path / "w.safetensors", entry(), bytes(4), length))


def test_damaged_weights_are_named(weights: Path) -> None:
    data, rng = weights.read_bytes(), random.Random(5)
    for _ in range(400):
        weights.write_bytes(mutated(data, rng, len(data)))
        with contextlib.suppress(EdgedetError):
            describe(weights)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch (extra train)")
    from edgedet.training.checkpoint import load_model

    path = tmp_path / "w.safetensors"
    shutil.copy(CACHES / "yolo" / "model.safetensors", path)
    data, rng = path.read_bytes(), random.Random(6)
    head = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(30):
        path.write_bytes(mutated(data, rng, head))
        try:
            load_model(path)
        except EdgedetError as e:
            assert e.exit_code == 1  # noqa: PT017  the file is at fault, not the command


@pytest.mark.parametrize("options", ['{"x": 1}', "[]", "[" * 50_000, '{"boxes_per_cell": "many"}', "nothing"])
def test_options_that_cannot_be_meant(tmp_path: Path, options: str) -> None:
    pytest.importorskip("torch", reason="needs torch (extra train)")
    from safetensors.torch import save_file

    from edgedet.models import build, make_spec
    from edgedet.training.checkpoint import OPTIONS_KEY, load_model

    model = build("yolo", 2, pretrained=False)
    spec = make_spec("yolo", model, ("a", "b"), size=(64, 64)).to_json()
    save_file(model.state_dict(), tmp_path / "w.safetensors", {SPEC_KEY: spec, OPTIONS_KEY: options})
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_model(tmp_path / "w.safetensors")
