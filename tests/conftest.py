"""Fixtures for all tests: the shared data (skips where it is absent), and the installed scripts."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedet.spec import SPEC_KEY, Decode, Input, ModelSpec, Output, Precision

ROOT = Path(__file__).resolve().parents[1]
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
