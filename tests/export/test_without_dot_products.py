"""The shipped yolo in INT8 on CPUs without INT8 dot products, which add products in saturating 16 bits.

They are switched off here: for OpenVINO by oneDNN's ONEDNN_MAX_CPU_ISA, for ONNX Runtime, which has no
such switch, by an emulated CPU of 2013 (`qemu-x86_64` of the package qemu-user), if this one has them. A
network made to saturate says whether they are off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.calib import PLACEMENTS, Placement, Scales, quantise
from edgedet.contract.spec import ModelSpec
from edgedet.export.graph import Graphs, to_bytes, with_spec
from edgedet.models.base import Model
from edgedet.runtime import open_engine
from edgedet.training.checkpoint import load_model
from edgedet.weights import find

CHANNELS = 64
LARGEST = 255 * 127 * CHANNELS

RUN = """
import sys
import numpy as np
from edgedet.runtime import open_engine

library, probe, network, source, target = sys.argv[1:]
image = np.full((1, 64, 8, 8), 255, np.float32)
if library == "openvino":
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    largest = core.compile_model(core.read_model(probe), "CPU", options)({0: image})[0].max()
else:
    import onnxruntime

    session = onnxruntime.InferenceSession(probe, providers=["CPUExecutionProvider"])
    largest = session.run(None, {"x": image})[0].max()
print("largest", float(largest))
with open_engine(network, engine=library, threads=2) as engine:
    images = np.load(source)
    np.save(target, np.concatenate([engine.infer({"images": i[None]})["grid"] for i in images]))
"""


def write_probe(path: Path) -> Path:
    """A quantised convolution of the largest activations and weights: pairs of products saturate."""
    n = helper.make_node
    tensors = {
        "one": np.array(1, np.float32),
        "step": np.array(2**15, np.float32),
        "zero": np.array(0, np.uint8),
        "ones": np.ones(8, np.float32),
        "zeros": np.zeros(8, np.int8),
        "w": np.full((8, CHANNELS, 1, 1), 127, np.int8),
    }
    nodes = [
        n("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        n("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        n("DequantizeLinear", ["w", "ones", "zeros"], ["wd"], axis=0),
        n("Conv", ["xd", "wd"], ["sum"]),
        n("QuantizeLinear", ["sum", "step", "zero"], ["yq"]),
        n("DequantizeLinear", ["yq", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def shipped(graphs_of: Callable[[Model, ModelSpec], Graphs]) -> tuple[Graphs, Scales]:
    weights = find("yolo")
    return graphs_of(*load_model(weights)), Scales.load(weights.parent / "calibration.json")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(3, 3, 320, 320): smooth noise, as a network's inputs."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (10, 10, 3), np.uint8) for _ in range(3)]
    large = np.stack([cv2.resize(i, (320, 320), interpolation=cv2.INTER_CUBIC) for i in small])
    return np.ascontiguousarray((large.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))


def decibels(want: np.ndarray, got: np.ndarray) -> float:
    noise = np.square(got - want, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(want, dtype=np.float64).sum() / noise))


@pytest.mark.slow
@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
def test_the_shipped_yolo_computes_what_is_written(library, shipped, images, tmp_path):
    pytest.importorskip(library)
    graphs, scales = shipped
    probe, source = write_probe(tmp_path / "probe.onnx"), tmp_path / "images.npy"
    np.save(source, images)
    emulator = shutil.which("qemu-x86_64") if library == "onnxruntime" else None
    launch = [emulator, "-cpu", "Haswell"] if emulator else []
    root = str(Path(__file__).resolve().parents[2])
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": root}

    def off_and_exact(placement: Placement) -> float:
        """Decibels of the heads: exact arithmetic to the engine without dot products."""
        network, target = tmp_path / "network.onnx", tmp_path / "heads.npy"
        graph = quantise(graphs.core, scales, placement).graph
        network.write_bytes(to_bytes(with_spec(graph, graphs.spec.with_(precision="int8"))))
        arguments = [sys.executable, "-c", RUN, library, str(probe), str(network), str(source), str(target)]
        done = subprocess.run([*launch, *arguments], env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        largest = float(done.stdout.split("largest ")[1].split()[0])
        if largest > 0.9 * LARGEST:
            pytest.skip(f"{library} has INT8 dot products here that cannot be switched off")
        with open_engine(network, engine="onnxruntime", precision="exact") as engine:
            want = np.concatenate([engine.infer({"images": i[None]})["grid"] for i in images])
        return decibels(want, np.load(target))

    placement = PLACEMENTS[library]
    fits, full = off_and_exact(placement), off_and_exact(replace(placement, pairs_fit=False))
    assert fits > 33, "only what lies on the edge of a step may differ"
    assert full < 25, "weights of 8 bits saturate: the test sees what it is for"
