from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedet.boxes import area
from edgedet.data import Dataset, Truth, open_dataset
from edgedet.errors import SourceError, UnknownName
from edgedet.evaluation import engine_predictor
from edgedet.export.accuracy import MAX_FRAMES, Frames, agreement, average_precision, open_data
from edgedet.export.graph import to_bytes, with_spec
from edgedet.runtime import open_engine


@pytest.fixture(scope="module")
def engines(exported, tmp_path_factory):
    """The model, and the same with its last biases moved: other boxes, other classes."""
    folder = tmp_path_factory.mktemp("engines")
    graphs = exported.graphs
    other = onnx.ModelProto()
    other.CopyFrom(graphs.core)
    bias = next(t for t in other.graph.initializer if t.name == "head.3.bias")
    values = numpy_helper.to_array(bias) + np.random.default_rng(0).normal(0, 2, 13).astype(np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    opened = []
    for name, core in (("a", graphs.core), ("b", other)):
        path = folder / f"{name}.onnx"
        path.write_bytes(to_bytes(with_spec(graphs.decoded(core), graphs.decoded_spec)))
        opened.append(open_engine(path, engine="onnxruntime"))
    yield opened
    for engine in opened:
        engine.close()


def test_an_engine_agrees_with_itself_and_not_with_another(engines, pictures):
    frames = open_data(f"folder:{pictures}", "val")
    assert isinstance(frames, Frames)
    measure = agreement(engines[0], frames)
    assert measure is not None
    assert measure(engines[0]) == pytest.approx(100)
    assert measure(engines[1]) < 60


def test_where_the_reference_finds_nothing(engines, pictures):
    frames = open_data(f"folder:{pictures}", "val")
    strict = engines[0].spec.thresholds.__class__(score=1.0)

    class Blind:
        spec = engines[0].spec.with_(thresholds=strict)
        infer = engines[0].infer

    assert agreement(Blind(), frames) is None  # type: ignore[arg-type]


def test_ap_in_percent(engines, pictures):
    folder = open_dataset(f"folder:{pictures}")
    predict = engine_predictor(engines[0], engines[0].spec.thresholds)
    truths = []
    for i in range(len(folder)):
        found = predict(folder.image(i))
        keep = area(found.boxes) > 0
        boxes, marks = found.boxes[keep], found.labels[keep]
        truths.append(Truth(folder.truths[i].path, boxes, marks, np.zeros(len(boxes), bool)))
    dataset = Dataset("mine", engines[0].spec.classes, truths)
    measure = average_precision(dataset, progress=False)
    assert measure(engines[0]) > 95
    assert measure(engines[1]) < 60


def test_frames_of_a_video_are_spread_and_few(tmp_path: Path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 32))
    for i in range(250):
        writer.write(np.full((32, 32, 3), i, np.uint8))
    writer.release()
    frames = open_data(str(path), "val")
    assert isinstance(frames, Frames)
    levels = [int(image.mean()) for image in frames.images()]
    assert 50 < len(levels) <= MAX_FRAMES
    assert levels == sorted(levels)
    assert levels[0] < 5
    assert levels[-1] > 240


def test_unreadable_frames_are_left_out(pictures, tmp_path):
    for source in pictures.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    bad = tmp_path / "4.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    frames = open_data(f"folder:{tmp_path}", "val")
    assert isinstance(frames, Frames)
    assert len(frames.images()) == 9


def test_what_does_not_exist(tmp_path):
    with pytest.raises(SourceError):
        open_data(str(tmp_path / "none.mp4"), "val")
    with pytest.raises((UnknownName, SourceError)):
        open_data("vok:somewhere", "val")
