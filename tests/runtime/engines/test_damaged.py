"""Damaged ONNX files and plans: whatever is in them, the answer is a named error."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgedet.contract.errors import EdgedetError, EngineError, SpecError
from edgedet.contract.spec import SPEC_KEY
from edgedet.export.graph import with_spec
from edgedet.runtime import open_engine, read_spec
from edgedet.runtime.engines.engine import ENGINES
from edgedet.runtime.engines.onnx_metadata import has_half_scales
from edgedet.runtime.engines.plan_spec import read_plan_spec
from edgedet.runtime.engines.protobuf import MAX_FIELDS, fields

INSTALLED = [name for name, backend in ENGINES.items() if backend.installed]

# in a process of its own: a crash inside a library ends it, and the last line says on which input
OPEN_ALL = """
import sys
from pathlib import Path
import numpy as np
from edgedet.contract.errors import EdgedetError
from edgedet.runtime import open_engine
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    try:
        with open_engine(path, engine=sys.argv[2]) as engine:
            i = engine.spec.input
            engine.infer({i.name: np.zeros((i.batch or 1, 3, *i.size), np.float32)})
            request = engine.request()
            request.start()
            request.wait()
    except EdgedetError:
        pass
print("all")
"""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three small accidents."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, length = rng.randrange(len(out)), rng.randrange(1, 40)
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 1] = rng.choice((b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x00", b"\xff"))
        elif kind == 2:
            del out[at + 1 :]
        elif kind == 3:
            del out[at : at + length]
        else:
            other = rng.randrange(len(out))
            out[at:at] = out[other : other + length]
        if len(out) < 2:
            break
    return bytes(out)


def restructured(path: Path, rng: random.Random) -> bytes:
    """A model whose parts are lost, doubled or renamed, though it is whole as a message."""
    model = onnx.load(path)
    graph = model.graph
    parts = [graph.node, graph.input, graph.output, graph.initializer, *(n.input for n in graph.node)]
    for _ in range(rng.choice((1, 2))):
        part = rng.choice([p for p in parts if len(p)])
        at = rng.randrange(len(part))
        kind = rng.randrange(3)
        if kind == 0:
            del part[at]
        elif kind == 1:
            part.append(part[at])
        elif isinstance(part[at], str):
            part[at] = rng.choice(("", "images", "boxes", "nothing"))
        else:
            part[at].name = rng.choice(("", "images", "boxes", "nothing"))
    for value in (*graph.input, *graph.output):
        for d in value.type.tensor_type.shape.dim:
            if rng.random() < 0.1:
                d.dim_value = rng.choice((-1, 0, 1 << 40, (1 << 63) - 1))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("engine", INSTALLED)
def test_an_engine_survives_what_is_damaged(brightness: Path, tmp_path: Path, engine: str) -> None:
    rng = random.Random(9)
    data = brightness.read_bytes()
    for n in range(80):
        (tmp_path / f"bytes-{n:03}.onnx").write_bytes(mutated(data, rng))
        (tmp_path / f"parts-{n:03}.onnx").write_bytes(restructured(brightness, rng))
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, tmp_path, engine], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all"]), done.stderr[-2000:]


@pytest.mark.parametrize("ending", [".onnx", ".plan"])
def test_every_reader_names_what_is_damaged(brightness: Path, tmp_path: Path, ending: str) -> None:
    rng = random.Random(3)
    plan = b"\0" * 99 + read_spec(brightness).to_json().encode()
    data = brightness.read_bytes() if ending == ".onnx" else plan
    path = tmp_path / f"m{ending}"
    for _ in range(300):
        path.write_bytes(mutated(data, rng))
        for read in (read_spec, has_half_scales) if ending == ".onnx" else (read_plan_spec,):
            try:
                read(path)
            except EdgedetError as e:
                assert str(path) in e.message or isinstance(e, SpecError)  # noqa: PT017


def change(path: Path, to: Path, edit: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(path)
    edit(model)
    to.write_bytes(model.SerializeToString())
    return to


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[1].name = model.graph.output[0].name


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (rename_output, "same name"),
        (lambda m: m.graph.node[-1].input.pop(), "'Add' lacks one of its 2 inputs"),
        (lambda m: m.graph.node.pop(0), "takes 'mean4', which nothing before it makes"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "makes nothing, or what was there before"),
        (lambda m: m.graph.node.append(helper.make_node("Loop", [m.graph.input[0].name], ["y"])), "'Loop'"),
        (lambda m: m.graph.input[0].ClearField("type"), "no name or no type"),
        (
            lambda m: m.graph.output.add().CopyFrom(helper.make_tensor_value_info("x", 1, [1])),
            "nothing makes",
        ),
        (lambda m: setattr(m.opset_import[0], "version", (1 << 31) - 1), "version 2147483647"),
        (lambda m: setattr(m.opset_import[0], "version", -1), "ONNX has no such version"),
        (lambda m: m.metadata_props.append(m.metadata_props[0]), "not a whole ONNX file"),
    ],
)
def test_a_graph_that_does_not_hang_together(
    brightness: Path, tmp_path: Path, edit: Callable[[onnx.ModelProto], object], why: str
) -> None:
    """OpenVINO looks through 2^31 versions, and crashes the process on some of the others."""
    with pytest.raises(EngineError, match=why):
        read_spec(change(brightness, tmp_path / "m.onnx", edit))


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_a_free_axis_where_the_spec_has_none(brightness: Path, tmp_path: Path) -> None:
    def free(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "any"

    path = change(brightness, tmp_path / "m.onnx", free)
    with open_engine(path, engine="openvino") as engine:
        engine.request()


def test_a_changed_graph_is_seen_by_its_digest(brightness: Path, tmp_path: Path) -> None:
    model, path = onnx.load(brightness), tmp_path / "m.onnx"
    onnx.save(with_spec(model, read_spec(brightness)), path)
    spec = read_spec(path)
    whole = path.read_bytes()
    at = whole.index(b"ReduceMean")  # somewhere in the graph
    for bit in range(8):
        path.write_bytes(whole[: at + 9] + bytes([whole[at + 9] ^ 1 << bit]) + whole[at + 10 :])
        with pytest.raises(EngineError):
            read_spec(path)

    # another spec in the same graph is no damage
    path.write_bytes(whole)
    other = spec.with_(classes=("low", "high"))
    change(path, path, lambda m: helper.set_model_props(m, {**_props(m), SPEC_KEY: other.to_json()}))
    assert read_spec(path) == other


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_name_that_is_not_utf8(brightness: Path, tmp_path: Path, engine: str) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.onnx")
    try:
        path.write_bytes(brightness.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with open_engine(path, engine=engine) as opened:
        assert opened.spec == read_spec(brightness)


def test_a_plan_of_beginnings_is_no_hang(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(b'{"build":' * 100_000)
    with pytest.raises(SpecError, match="carries no edgedet spec"):
        read_plan_spec(tmp_path / "a.plan")


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    entry = b"\x0a\x03key\x12\x02\xff\xfe"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString() + bytes([0x72, len(entry)]) + entry)
    with pytest.raises(EngineError, match="not a whole ONNX file"):
        read_spec(tmp_path / "m.onnx")


def test_a_message_of_nothing_but_small_fields(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07" * (MAX_FIELDS + 1))
    with pytest.raises(EngineError, match="not a whole ONNX file"):
        read_spec(tmp_path / "m.onnx")


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_given_spec_makes_no_graph_whole(brightness: Path, tmp_path: Path, engine: str) -> None:
    """OpenVINO ends the process on such graphs: they are checked whoever describes them."""
    path = change(brightness, tmp_path / "m.onnx", rename_output)
    with pytest.raises(EngineError, match="same name"):
        open_engine(path, engine=engine, spec=read_spec(brightness))


def test_a_file_that_goes_away_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")

    def remove_first(*arguments: object) -> object:
        path.unlink(missing_ok=True)
        return fields(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("edgedet.runtime.engines.onnx_metadata.fields", remove_first)
    with pytest.raises(EngineError, match=r"not a whole ONNX file \(8 bytes\)"):
        read_spec(path)
