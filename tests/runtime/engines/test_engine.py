"""Engines: what opens, what is refused and how, and that they agree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgedet.contract.errors import EdgedetError, EngineError, MissingDependency, SpecError, UnknownName
from edgedet.contract.spec import Decode, Input, ModelSpec, Output
from edgedet.runtime import Engine, open_engine, open_predictor, read_spec
from edgedet.runtime.engines import engine as engine_module
from edgedet.runtime.engines.engine import Backend, artifact_spec

NAMES = ("openvino", "onnxruntime")


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, brightness: Path) -> Iterator[Engine]:
    pytest.importorskip(request.param)
    with open_engine(brightness, engine=request.param) as opened:
        yield opened


def batch(*levels: float) -> dict[str, np.ndarray]:
    return {"images": np.stack([np.full((3, 32, 32), v, np.float32) for v in levels])}


def test_infer_gives_arrays_that_stay(engine: Engine) -> None:
    first = engine.infer(batch(0.25))
    second = engine.infer(batch(0.75))
    np.testing.assert_allclose(first["scores"], [[[0, 0.25]]], atol=1e-5)
    np.testing.assert_allclose(second["scores"], [[[0, 0.75]]], atol=1e-5)
    np.testing.assert_allclose(first["boxes"], [[[4, 8, 20, 24]]])
    assert list(first) == [o.name for o in engine.spec.outputs]


def test_requests_in_flight_keep_their_own_buffers(engine: Engine) -> None:
    requests = [engine.request() for _ in range(3)]
    arrays = [(r.inputs["images"], r.outputs["scores"]) for r in requests]
    for turn in range(5):
        for i, request in enumerate(requests):
            request.inputs["images"][:] = 0.1 * i + 0.05 * turn
            request.start()
        for i, request in enumerate(requests):
            assert request.wait() >= 0
            np.testing.assert_allclose(request.outputs["scores"][0, 0, 1], 0.1 * i + 0.05 * turn, atol=1e-5)
    assert all(
        r.inputs["images"] is a and r.outputs["scores"] is b
        for r, (a, b) in zip(requests, arrays, strict=True)
    )


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"image": np.zeros((1, 3, 32, 32), np.float32)},
        {"images": np.zeros((1, 3, 32, 31), np.float32)},
        {"images": np.zeros((1, 3, 32, 32), np.float64)},
        {"images": np.zeros((2, 3, 32, 32), np.float32)},
        {"images": np.zeros((3, 32, 32), np.float32)},
    ],
)
def test_other_tensors_are_refused(engine: Engine, bad: dict[str, np.ndarray]) -> None:
    with pytest.raises(EngineError, match=r"expected|takes"):
        engine.infer(bad)


def test_an_input_that_is_not_contiguous_is_copied(engine: Engine) -> None:
    wide = np.zeros((1, 32, 32, 3), np.float32)
    wide[..., 0] = 0.3
    out = engine.infer({"images": wide.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(out["scores"][0, 0, 1], 0.1, atol=1e-5)


def test_close_is_final_and_may_be_repeated(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(batch(0.5))


@pytest.mark.parametrize("name", NAMES)
def test_a_free_batch_takes_any(name: str, write_model: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip(name)
    with open_engine(write_model(tmp_path / "free.onnx", batch=None), engine=name) as engine:
        for levels in ((0.1,), (0.2, 0.4, 0.6), (0.3,)):
            scores = engine.infer(batch(*levels))["scores"]
            np.testing.assert_allclose(scores[:, 0, 1], levels, atol=1e-5)
        request = engine.request(2)
        assert request.inputs["images"].shape == (2, 3, 32, 32)
        request.inputs["images"][:] = batch(0.5, 0.7)["images"]
        request.start()
        request.wait()
        np.testing.assert_allclose(request.outputs["scores"][:, 0, 1], (0.5, 0.7), atol=1e-5)


def test_several_streams_give_the_same(brightness: Path) -> None:
    for name in NAMES:
        pytest.importorskip(name)
        with open_engine(brightness, engine=name, streams=2, threads=2) as engine:
            assert engine.streams == 2
            requests = [engine.request() for _ in range(4)]
            for i, r in enumerate(requests):
                r.inputs["images"][:] = i / 10
                r.start()
            for i, r in enumerate(requests):
                assert r.wait() >= 0
                np.testing.assert_allclose(r.outputs["scores"][0, 0, 1], i / 10, atol=1e-5)


def test_engines_agree_on_the_lecture_s_yolo(yolo: Path) -> None:
    for name in NAMES:
        pytest.importorskip(name)
    images = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    results = []
    for name in NAMES:
        with open_engine(yolo, engine=name) as engine:
            results.append(engine.infer({"images": images}))
    for tensor in ("boxes", "scores"):
        np.testing.assert_allclose(results[0][tensor], results[1][tensor], rtol=1e-3, atol=1e-3)
    assert results[0]["boxes"].std() > 1  # not all the same


def test_bf16_is_asked_for_never_assumed(yolo: Path) -> None:
    openvino = pytest.importorskip("openvino")
    images = {"images": np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)}
    with open_engine(yolo, engine="openvino") as engine:
        assert engine.name == "OpenVINO CPU fp32"
        full = engine.infer(images)["boxes"]
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match="bf16"):
            open_engine(yolo, engine="openvino", precision="bf16")
        return
    with open_engine(yolo, engine="openvino", precision="bf16") as engine:
        assert engine.name == "OpenVINO CPU bf16"
        half = engine.infer(images)["boxes"]
    difference = np.abs(full - half).max()
    assert 1e-4 < difference < 5


def test_auto_prefers_openvino(brightness: Path) -> None:
    pytest.importorskip("openvino")
    with open_engine(brightness) as engine:
        assert engine.name.startswith("OpenVINO")


def test_without_an_engine_both_extras_are_named(brightness: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"openvino": Backend("no_such_library", ""), "onnxruntime": Backend("nor_this_one", "")}
    monkeypatch.setattr(engine_module, "ENGINES", absent)
    with pytest.raises(MissingDependency) as caught:
        open_engine(brightness)
    assert "edgedet[cpu]" in str(caught.value)
    assert "edgedet[onnxruntime]" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("yolo", None, EngineError, "edgedet-export --model yolo"),
        ("absent.onnx", None, EngineError, "no model file"),
        ("plan.engine", b"ftrt", EngineError, "TensorRT plan"),
        ("text.onnx", b"hello, this is text", EngineError, "not a whole ONNX"),
        ("empty.onnx", b"", EngineError, "not a whole ONNX"),
    ],
)
def test_what_is_no_model_is_refused_with_advice(
    name: str,
    content: bytes | None,
    kind: type[EdgedetError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(kind, match=words):
        open_engine(name)


def test_unknown_names_are_refused(brightness: Path) -> None:
    with pytest.raises(UnknownName, match="openvino"):
        open_engine(brightness, engine="openvno")
    for name, device in (("openvino", "NPU7"), ("onnxruntime", "TPU")):
        pytest.importorskip(name)
        with pytest.raises(EngineError, match="CPU"):
            open_engine(brightness, engine=name, device=device)
        with pytest.raises(EngineError, match="int3"):
            open_engine(brightness, engine=name, precision="int3")


def test_a_spec_of_another_graph_is_refused(write_model: Callable[..., Path], tmp_path: Path) -> None:
    other = ModelSpec(
        "other",
        "detection",
        Input("images", 64, 64, (0,) * 3, (1,) * 3, batch=1),
        (Output("boxes", "boxes", (1, 1, 4)), Output("scores", "scores", (1, 1, 2))),
        Decode("dense"),
        ("a", "b"),
    )
    path = write_model(tmp_path / "mixed.onnx", spec=other)
    for name in NAMES:
        pytest.importorskip(name)
        with pytest.raises(SpecError, match="64"):
            open_engine(path, engine=name)


SIGNALLED = """
import gc, os, signal, sys
from edgedet.runtime import open_engine

signal.signal(signal.SIGINT, lambda *_: print("told"))
first = open_engine(sys.argv[1], engine=sys.argv[2])
second = open_engine(sys.argv[1], engine=sys.argv[2])
first.close()
del first
gc.collect()
second.close()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGINT)
print("alive")
"""


@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
def test_a_signal_after_engines_were_closed_is_handled(brightness: Path, library: str) -> None:
    pytest.importorskip(library)
    command = [sys.executable, "-c", SIGNALLED, str(brightness), library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\nalive\n", "")


# which engine for which file ---------------------------------------------------------------------------


def without_spec(path: Path, to: Path) -> Path:
    """The same graph without its spec."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, to)
    return to


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_from_beside_the_file(brightness: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    bare = without_spec(brightness, tmp_path / "bare.onnx")
    spec = read_spec(brightness)
    with pytest.raises(SpecError, match="carries no edgedet spec"):
        open_engine(bare, engine=name)
    with open_engine(bare, engine=name, spec=spec) as engine:
        assert engine.spec == spec
        np.testing.assert_allclose(engine.infer(batch(0.5))["scores"], [[[0, 0.5]]], atol=1e-5)
    with open_predictor(bare, engine=name, spec=spec) as predictor:
        assert len(predictor(np.full((8, 8, 3), 99, np.uint8))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_from_beside_is_checked_against_the_graph(brightness: Path, name: str) -> None:
    pytest.importorskip(name)
    spec = read_spec(brightness)
    for wrong in (
        spec.with_(input=replace(spec.input, name="pixels")),
        spec.with_(input=replace(spec.input, width=64)),
        spec.with_(input=replace(spec.input, dtype="uint8")),
        spec.with_(input=replace(spec.input, layout="NHWC")),
        spec.with_(outputs=(*spec.outputs, Output("more", "masks", (1, 2)))),
        spec.with_(extra_inputs=(Output("rois", "proposals", (1, 4)),)),
    ):
        with pytest.raises(SpecError, match="describes the"):
            open_engine(brightness, engine=name, spec=wrong)


@pytest.mark.parametrize("ending", [".engine", ".plan", ".trt", ".PLAN"])
def test_a_plan_goes_to_an_engine_that_takes_plans(
    brightness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    plan = tmp_path / f"model{ending}"
    plan.write_bytes(b"\0" * 600 + read_spec(brightness).to_json().encode() + b"\0" * 600)
    assert artifact_spec(plan) == read_spec(brightness)
    for asked in ("auto", "openvino", "onnxruntime"):
        with pytest.raises(EngineError, match="TensorRT plan: it needs an NVIDIA GPU"):
            open_engine(plan, engine=asked)
    # with an engine for plans: it is chosen, and no other is
    taker = Backend("numpy", "plan_taker", (".engine", ".plan", ".trt"))
    monkeypatch.setattr(engine_module, "ENGINES", {**engine_module.ENGINES, "plans": taker})
    opened: list[ModelSpec] = []
    module = SimpleNamespace(open_model=lambda path, spec, **options: opened.append(spec))
    monkeypatch.setitem(sys.modules, "plan_taker", module)  # type: ignore[arg-type]
    open_engine(plan)
    open_engine(plan, engine="plans", spec=read_spec(brightness).with_(model="beside"))
    assert [s.model for s in opened] == ["brightness", "beside"]
    with pytest.raises(EngineError, match=r"'openvino' does not take \.\w+ files.*Use plans"):
        open_engine(plan, engine="openvino")
    with pytest.raises(EngineError, match=r"'plans' does not take \.onnx files"):
        open_engine(brightness, engine="plans")


def test_a_folder_called_like_a_model_is_named(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.plan"):
        (tmp_path / name).mkdir()
        with pytest.raises(EngineError, match="is not a file"):
            open_engine(tmp_path / name)
