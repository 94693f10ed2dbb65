from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from edgedet.contract.boxes import area
from edgedet.contract.errors import DataError, SourceError, UnknownName, UsageError
from edgedet.data import Dataset, Truth, open_dataset
from edgedet.evaluation import engine_under_test
from edgedet.export.accuracy import (
    ACCURACY,
    MAX_FRAMES,
    Frames,
    agreement,
    average_precision,
    map_agreement,
    open_data,
)
from edgedet.export.console import LabelledConsole
from edgedet.export.gate import make_gate
from edgedet.export.graph import to_bytes, with_spec
from edgedet.export.options import ExportOptions, Log
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
    predict = engine_under_test(engines[0], engines[0].spec.thresholds)
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


@pytest.fixture(scope="module")
def mappers(segmenter):
    """A semantic network, and the same with the borders between its classes moved."""
    options = {"size": (48, 72)}
    paths = segmenter("a", **options), segmenter("b", shift=0.03, **options)
    opened = [open_engine(path, engine="onnxruntime") for path in paths]
    yield opened
    for engine in opened:
        engine.close()


def iou_by_hand(truths, maps, label):
    both = sum(int(((t == label) & (m == label)).sum()) for t, m in zip(truths, maps, strict=True))
    either = sum(int(((t == label) | (m == label)).sum()) for t, m in zip(truths, maps, strict=True))
    return both / either if either else None


def test_maps_agree_by_mean_iou(mappers, pictures):
    frames = open_data(f"folder:{pictures}", "val", "semantic")
    assert isinstance(frames, Frames)
    measure = ACCURACY["semantic"].agreement(mappers[0], frames)
    assert measure is not None
    assert measure(mappers[0]) == pytest.approx(100)
    first, second = ([engine_under_test(e)(i).classes for i in frames.images()] for e in mappers)
    figures = [iou_by_hand(first, second, k) for k in range(4)]
    known = [f for f in figures if f is not None]
    assert measure(mappers[1]) == pytest.approx(100 * sum(known) / len(known))
    assert 30 < measure(mappers[1]) < 95
    assert map_agreement(mappers[0], Frames("nothing", [], frames.read)) is None


def test_a_class_in_neither_map_does_not_count(mappers, tmp_path):
    for i, level in enumerate((30, 220)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((48, 72, 3), level, np.uint8))
    measure = map_agreement(mappers[0], open_data(f"folder:{tmp_path}", "val", "semantic"))
    assert measure is not None
    assert measure(mappers[1]) == pytest.approx(100)


def test_mean_iou_in_percent(mappers, pictures, tmp_path):
    """The first network's maps as the truth: it has 100, the other what the agreement says."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(mappers[0].spec.classes))
    for path in pictures.iterdir():
        image = cv2.imread(str(path))
        cv2.imwrite(str(tmp_path / "images" / path.name), image)
        cv2.imwrite(str(tmp_path / "masks" / path.name), engine_under_test(mappers[0])(image).classes)
    dataset = open_data(f"masks:{tmp_path}", "all", "semantic")
    assert isinstance(dataset, Dataset)
    measure = ACCURACY["semantic"].labelled(dataset, progress=False)
    frames = open_data(f"folder:{pictures}", "val", "semantic")
    agreed = map_agreement(mappers[0], frames)
    assert measure(mappers[0]) == pytest.approx(100)
    assert measure(mappers[1]) == pytest.approx(agreed(mappers[1]))
    with pytest.raises(DataError, match="has a class per pixel, which the results of a model for detection"):
        open_data(f"masks:{tmp_path}", "all", "detection")


def test_nothing_to_find_is_no_measure(engines, pictures):
    """A data set without objects, and FP32 that finds none of them: 0 would pass whatever INT8 has."""
    folder = open_dataset(f"folder:{pictures}")
    options = ExportOptions("yolo", Path(), max_drop=0.5)
    none, one = np.zeros((0, 4), np.float32), np.array([[1, 1, 2, 2]], np.float32)
    cases = (
        ("empty", none, "empty holds nothing that the model could find"),
        ("tiny", one, "FP32 itself has 0.00 AP on tiny"),
    )
    for name, boxes, why in cases:
        labels, ignore = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), bool)
        truths = [Truth(t.path, boxes, labels, ignore) for t in folder.truths]
        log = Log(LabelledConsole(Console(file=io.StringIO()), quiet=True))
        gate = make_gate(options, engines[0], Dataset(name, engines[0].spec.classes, truths), None, log)
        verdict = gate.judge(engines[0])
        assert (verdict.passed, verdict.quantised, verdict.why) == (None, None, why)
        assert why in log.notes[0]


def test_the_yardstick_of_a_semantic_model(mappers, pictures):
    options = ExportOptions("grey", Path(), max_drop=0.5, min_agreement=80)
    log = Log(LabelledConsole(Console(file=io.StringIO())))
    frames = open_data(f"folder:{pictures}", "val", "semantic")
    gate = make_gate(options, mappers[0], frames, None, log)
    assert (gate.kind, gate.reference, gate.allowed, gate.metric) == ("agreement", 100.0, 80, "")
    assert gate.judge(mappers[0]).passed is True
    assert log.facts["accuracy"]["measure"] == "agreement with FP32's class maps"
    assert "gives mIoU" in log.notes[0]


def test_a_live_source_is_no_data_to_judge_by():
    with pytest.raises(UsageError, match="is live"):
        open_data("http://127.0.0.1:9/x.mjpg", "val")


@pytest.mark.parametrize("option", ["calib_data", "eval_data"])
def test_an_empty_name_of_data_is_not_left_out(option):
    with pytest.raises(UsageError, match="is empty"):
        ExportOptions("yolo", Path(), target="openvino", **{option: ""}).check()
