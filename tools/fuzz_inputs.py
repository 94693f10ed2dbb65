"""The valid files that tools/fuzz_readers damages, and how each is read to its end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgedet.contract.errors import EdgedetError


@dataclass(frozen=True)
class Reader:
    """What is mutated (a file of the folder that `make` fills), and how the folder is then read."""

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def image(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"a{ending}"
        cv2.imwrite(str(path), picture())
        return path

    return make


def clip(ending: str, codec: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"a{ending}"
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
        for i in range(12):
            writer.write(picture(seed=i))
        writer.release()
        return path

    return make


def spec_text() -> str:
    from edgedet.contract.spec import Decode, Input, ModelSpec, Output

    return ModelSpec(
        "brightness",
        "detection",
        Input("images", 32, 32, (0.0,) * 3, (1.0,) * 3, batch=1),
        (Output("boxes", "boxes", (1, 1, 4)), Output("scores", "scores", (1, 1, 2))),
        Decode("dense", {"format": "xyxy"}),
        ("dark", "bright"),
        metrics={"AP": 0.5},
    ).to_json()


def onnx_model(folder: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    constant = numpy_helper.from_array
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w"], ["mean"], strides=[32, 32]),
            helper.make_node("Reshape", ["mean", "shape"], ["m"]),
            helper.make_node("Mul", ["m", "signs"], ["scores"]),
            helper.make_node("Identity", ["corners"], ["boxes"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 2]),
        ],
        [
            constant(np.full((2, 3, 32, 32), 1 / 3072, np.float32), "w"),
            constant(np.array([1, 1, 2]), "shape"),
            constant(np.ones((1, 1, 2), np.float32), "signs"),
            constant(np.array([[[1, 1, 9, 9]]], np.float32), "corners"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"edgedet.spec": spec_text()})
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def spec_file(folder: Path) -> Path:
    (folder / "spec.json").write_text(spec_text())
    return folder / "spec.json"


def plan(folder: Path) -> Path:
    raw = json.loads(spec_text()) | {"build": {"precision": "int8"}}
    head = os.urandom(644)
    text = json.dumps(raw, sort_keys=True).encode().replace(b": ", b":")
    (folder / "a.plan").write_bytes(head + text + head)
    return folder / "a.plan"


def weights(folder: Path) -> Path:
    from edgedet.weights import find

    path = folder / "a.safetensors"
    path.write_bytes(find("yolo").read_bytes())
    return path


def cache(folder: Path) -> Path:
    from edgedet.calib.scales import Range, Scales

    ranges = {"images": Range(-1.0, 1.0), "a.conv": Range(0.0, 5.5), "b.conv": Range(-2.25, 3.125)}
    path = folder / "calibration.json"
    Scales("ab" * 32, "folder:mine, 3 images", 3, "mse", 2, ranges, (0.5, 1.25, 3.0)).save(path)
    return path


XML = """<?xml version="1.0"?>
<annotation><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>31.5</xmin><ymin>4</ymin><xmax>60</xmax><ymax>20</ymax></bndbox></object>
</annotation>
"""


def voc(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / f"JPEGImages/a{i}.jpg"), picture(seed=i))
            (folder / f"Annotations/a{i}.xml").write_text(XML)
        (folder / "ImageSets/Main/train.txt").write_text("a0\na1\n")
        return folder / target

    return make


def yolo(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in ("images/train", "labels/train"):
            (folder / name).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / f"images/train/a{i}.jpg"), picture(seed=i))
            (folder / f"labels/train/a{i}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.3 0.4 0.1 0.2\n")
        if target == "data.yaml":
            paths = "path: .\ntrain: images/train\nval: images/train\n"
            (folder / target).write_text(f"{paths}names:\n  0: dog\n  1: cat\n")
        else:
            (folder / "classes.txt").write_text("dog\ncat\n")
        return folder / target

    return make


def coco(folder: Path) -> Path:
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images/a.jpg"), picture())
    raw = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [3, 4, 20, 30], "iscrowd": 0, "area": 600,
             "segmentation": [[3, 4, 23, 4, 23, 34]]},
            {"id": 2, "image_id": 1, "category_id": 9, "bbox": [30, 4, 20, 30], "iscrowd": 1, "area": 600,
             "segmentation": {"size": [48, 64], "counts": [100, 20, 2952]}},
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(raw))
    return folder / "instances.json"


def masks(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        for i in range(2):
            cv2.imwrite(str(folder / f"images/a{i}.png"), picture(seed=i))
            mask = (picture(seed=i)[..., 0] > 128).astype(np.uint8)
            cv2.imwrite(str(folder / f"masks/a{i}.png"), mask)
        (folder / "classes.txt").write_text("road\ncar\n")
        return folder / target

    return make


def read_data(kind: str, where: str = "") -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from edgedet.data import open_dataset

        folder = next(p for p in (path, *path.parents) if (p / ".fuzz").exists())
        data = open_dataset(f"{kind}:{folder / where if where else folder}", "train")
        for i in range(len(data)):
            with contextlib.suppress(EdgedetError):
                data.load(i)
            if data.truths[i].masks is not None:
                with contextlib.suppress(EdgedetError):
                    data.masks(i)
        return len(data)

    return read


def read_picture(path: Path) -> object:
    from edgedet.contract.image_files import image_size, read_image, read_stored

    with contextlib.suppress(EdgedetError):
        image_size(path)
    with contextlib.suppress(EdgedetError):
        read_stored(path)
    return read_image(path).shape


def read_clip(path: Path) -> object:
    from edgedet.runtime import open_source

    source, n = open_source(path), 0
    try:
        while source.read() is not None:
            n += 1
    finally:
        source.close()
    return n


def run_model(engine: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from edgedet.cli.info import describe
        from edgedet.runtime import open_predictor

        with contextlib.suppress(EdgedetError):
            describe(path)
        with open_predictor(path, engine=engine, threads=1) as predictor:
            return len(predictor(picture()))  # type: ignore[arg-type]

    return read


def read_spec(path: Path) -> object:
    from edgedet.contract.postprocess import make_postprocessor
    from edgedet.contract.spec import ModelSpec

    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return make_postprocessor(ModelSpec.from_json(text))


def read_plan(path: Path) -> object:
    from edgedet.runtime.engines.plan_spec import read_plan_spec

    return read_plan_spec(path)


def read_weights(path: Path) -> object:
    from edgedet.cli.info import describe
    from edgedet.training.checkpoint import load_model

    with contextlib.suppress(EdgedetError):
        describe(path)
    return load_model(path)


def read_cache(path: Path) -> object:
    from edgedet.calib.scales import Scales

    before = cache_ranges(path.with_suffix(".valid"))
    found = Scales.load(path)
    if dict(found.ranges) != before:
        raise AssertionError("a damaged calibration cache was believed: its ranges are others")
    return found


def cache_ranges(path: Path) -> dict[str, Any]:
    from edgedet.calib.scales import Scales

    return dict(Scales.load(path).ranges)


READERS = [
    *(Reader(f"image{e}", image(e), read_picture) for e in (".jpg", ".png", ".bmp", ".webp", ".tiff")),
    Reader("clip.mp4", clip(".mp4", "mp4v"), read_clip),
    Reader("clip.avi", clip(".avi", "MJPG"), read_clip),
    Reader("clip.mkv", clip(".mkv", "mp4v"), read_clip),
    Reader("onnx.openvino", onnx_model, run_model("openvino")),
    Reader("onnx.onnxruntime", onnx_model, run_model("onnxruntime")),
    Reader("spec", spec_file, read_spec),
    Reader("plan", plan, read_plan),
    Reader("safetensors", weights, read_weights),
    Reader("calibration", cache, read_cache),
    Reader("voc.xml", voc("Annotations/a0.xml"), read_data("voc")),
    Reader("voc.list", voc("ImageSets/Main/train.txt"), read_data("voc")),
    Reader("voc.jpg", voc("JPEGImages/a1.jpg"), read_data("voc")),
    Reader("yolo.txt", yolo("labels/train/a0.txt"), read_data("yolo")),
    Reader("yolo.classes", yolo("classes.txt"), read_data("yolo")),
    Reader("yolo.yaml", yolo("data.yaml"), read_data("yolo", "data.yaml")),
    Reader("coco", coco, read_data("coco", "instances.json")),
    Reader("masks.png", masks("masks/a0.png"), read_data("masks")),
    Reader("masks.classes", masks("classes.txt"), read_data("masks")),
]
