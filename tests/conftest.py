"""Fixtures for all tests: the shared data (skips where it is absent), and the installed scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedet.contract.spec import SPEC_KEY, Decode, Input, ModelSpec, Output, Precision, Resize, Role

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # tests that import openvino

# tests/fixtures, which is on pytest's path
pytest_plugins = ("runtime_fixtures", "evaluation_fixtures", "data_fixtures")

ROOT = Path(__file__).resolve().parents[1]

# what started pytest may ignore them (nohup, a shell's background), and the processes of tests would as well
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
SHARED = ROOT.parent / "shared"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the project; tests that need it skip on a machine without."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the development data in ../shared, which this machine has not")
    return SHARED / "data"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run an installed script as a process of its own: cli("edgedet-run", "model.onnx", cwd=...)."""
    scripts = Path(sysconfig.get_path("scripts"))
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE", "TERM")}

    def call(script: str, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(scripts / script), *map(str, args)]
        env = plain | {"NO_COLOR": "1", "COLUMNS": "120"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, **options)

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A whole detector of one convolution, with its spec: tiny_model("int8") -> an ONNX file.

    64 x 64 pixels, 2 x 2 cells, one box a cell, two classes; every cell sees a "thing" that fills it.
    The precision is what its spec says; the graph is the same.
    """
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
    folder = tmp_path_factory.mktemp("tiny")

    def make(precision: Precision = "fp32", model: str = "yolo") -> Path:
        weights = np.full((7, 3, 32, 32), 1e-5, np.float32)
        # x, y, sqrt w, sqrt h, confidence, two classes: logits of a box as large as its cell
        bias = np.array([0, 0, 0.88, 0.88, 4, 3, -3], np.float32)
        node = onnx.helper.make_node("Conv", ["images", "w", "b"], ["grid"], strides=[32, 32])
        tensor, value = onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [node],
            "tiny",
            [value("images", 1, [1, 3, 64, 64])],
            [value("grid", 1, [1, 7, 2, 2])],
            [tensor(weights, "w"), tensor(bias, "b")],
        )
        spec = ModelSpec(
            model,
            "detection",
            Input("images", 64, 64, (0.5,) * 3, (0.5,) * 3, batch=1),
            (Output("grid", "grid", (1, 7, 2, 2)),),
            Decode("yolo", {"boxes_per_cell": 1}),
            ("thing", "other"),
            precision=precision,
        )
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        onnx.helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
        path = folder / f"{model}-{precision}.onnx"
        onnx.save(made, path)
        return path

    return make


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real video file: 40 frames of 96 x 80 pixels with a square that moves."""
    path = tmp_path_factory.mktemp("clip") / "square.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 80))
    assert writer.isOpened()
    for i in range(40):
        frame = np.full((80, 96, 3), 90, np.uint8)
        cv2.rectangle(frame, (i, 20), (i + 30, 50), (40, 200, 240), cv2.FILLED)
        writer.write(frame)
    writer.release()
    return path


LEVELS = ("black", "dark", "bright", "white")


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A whole semantic network, pointwise: segmenter(...) -> an ONNX file that sorts pixels by their grey.

    Class k of K is the k-th of K equal parts of 0..255. Options: size (height, width); resize; classes, of
    which the graph always has 4 (two if binary); ends in "class_map" (of `dtype`), "class_logits" (at a
    `stride`) or "binary" (one logit, above 0 in the brighter half); batch; `margin`: pixels within that of
    the input's edges become class 0; `shift`: the classes' borders, in grey levels / 255.
    """
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
    folder = tmp_path_factory.mktemp("segmenters")
    types = {"uint8": 2, "int32": 6, "int64": 7}

    def make(
        name: str = "grey",
        *,
        size: tuple[int, int] = (32, 48),
        resize: Resize = "stretch",
        classes: tuple[str, ...] = LEVELS,
        end: str = "class_map",
        dtype: str = "uint8",
        stride: int = 1,
        batch: int | None = 1,
        margin: int = 0,
        shift: float = 0.0,
    ) -> Path:
        height, width = size
        node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
        # of the tangents of g^2 the highest at g is that of the nearest point: the middle of g's part
        centres = (np.arange(4) + 0.5) / 4 + shift
        slope, offset = (2 * centres, -(centres**2)) if end != "binary" else (np.ones(1), -np.full(1, 0.5))
        edge = np.zeros((1, len(slope), height // stride, width // stride), np.float32)
        if margin:
            edge[:, 0] = 9
            edge[:, 0, margin:-margin, margin:-margin] = 0
        constants = {
            "w": np.repeat(slope[:, None, None, None] / 3, 3, axis=1).astype(np.float32),
            "b": offset.astype(np.float32),
            "edge": edge,
        }
        nodes = [
            node("Conv", ["images", "w", "b"], ["plain"], strides=[stride, stride]),
            node("Add", ["plain", "edge"], ["class_logits"]),
        ]
        role: Role = "class_logits"
        shape: tuple[int | None, ...] = (batch, *edge.shape[1:])
        if end == "class_map":
            nodes.append(node("ArgMax", ["class_logits"], ["index"], axis=1, keepdims=0))
            nodes.append(node("Cast", ["index"], ["class_map"], to=types[dtype]))
            role, shape = "class_map", (batch, height, width)
        out = Output(role, role, shape, dtype if end == "class_map" else "float32")
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "grey",
            [value("images", 1, [batch or "N", 3, height, width])],
            [value(role, types.get(out.dtype, 1), [d or "N" for d in shape])],
            [tensor(array, key) for key, array in constants.items()],
        )
        spec = ModelSpec(
            "grey",
            "semantic",
            Input("images", height, width, (0.0,) * 3, (1.0,) * 3, resize=resize, batch=batch),
            (out,),
            Decode("class_map"),
            classes,
        )
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        onnx.helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
        path = folder / f"{name}.onnx"
        onnx.save(made, path)
        return path

    return make
