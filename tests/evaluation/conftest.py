"""A small data set whose answer is known, and real ONNX files that give it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.spec import SPEC_KEY, Decode, Input, ModelSpec, Output

CLASSES = ("dog", "cat")
XML = """<annotation><size><width>64</width><height>64</height></size>{objects}</annotation>"""
OBJECT = """
<object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>17</xmin><ymin>17</ymin><xmax>48</xmax><ymax>48</ymax></bndbox></object>"""


@pytest.fixture(scope="session")
def bright(tmp_path_factory) -> Path:
    """VOC layout: four bright images with a dog at (16, 16, 48, 48), four dark ones without, one cat."""
    root = tmp_path_factory.mktemp("data") / "bright"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = []
    for i in range(8):
        names.append(f"{i:02}")
        objects = OBJECT.format(name="dog") if i % 2 else ""
        objects += OBJECT.format(name="cat") if i == 0 else ""
        (root / "Annotations" / f"{names[-1]}.xml").write_text(XML.format(objects=objects))
        level = 200 + i if i % 2 else 40 + i
        cv2.imwrite(str(root / "JPEGImages" / f"{names[-1]}.jpg"), np.full((64, 64, 3), level, np.uint8))
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names))
    return root


def write_onnx(path: Path, *, shift: float = 0.0, classes=CLASSES, batch: int | None = None) -> Path:
    """A 32 x 32 network of one box, at (8, 8, 24, 24) + shift: a dog, as surely as the image is bright."""
    import onnx
    from onnx import TensorProto, helper

    spec = ModelSpec(
        model="brightness",
        task="detection",
        input=Input("images", 32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), batch=batch),
        outputs=(Output("boxes", "boxes", (batch, 1, 4)), Output("scores", "scores", (batch, 1, 2))),
        decode=Decode("dense"),
        classes=classes,
    )
    zero = np.zeros((1, 1), np.float32)
    box = np.array([8, 8, 24, 24], np.float32).reshape(1, 1, 4) + np.float32(shift)
    weights = np.array([[1.0, 0.0]], np.float32)  # brightness -> (dog, cat)
    n = batch or "N"
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["light"], keepdims=1),  # (N, 1, 1, 1)
        helper.make_node("Reshape", ["light", "shape"], ["column"]),  # (N, 1, 1)
        helper.make_node("MatMul", ["column", "weights"], ["scores"]),  # (N, 1, 2)
        helper.make_node("MatMul", ["column", "zero"], ["nothing"]),  # (N, 1, 1)
        helper.make_node("Add", ["nothing", "box"], ["boxes"]),  # (N, 1, 4)
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "shape": np.array([-1, 1, 1]),
        "weights": weights,
        "zero": zero,
        "box": box,
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [n, 3, 32, 32])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [n, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [n, 1, 2]),
        ],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    """A function that writes such a network and gives its path."""
    folder = tmp_path_factory.mktemp("models")
    pytest.importorskip("onnx", reason="needs onnx to write the test's network")

    def write(name: str = "good.onnx", **options) -> Path:
        return write_onnx(folder / name, **options)

    return write
