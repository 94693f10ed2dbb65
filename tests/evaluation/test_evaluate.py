"""evaluate() over plain callables, engines and torch models."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgedet.contract.errors import DataError, EmptyDataset
from edgedet.contract.results import Detections
from edgedet.data import open_dataset
from edgedet.evaluation import EVAL_THRESHOLDS, ModelUnderTest, engine_under_test, evaluate
from edgedet.evaluation.evaluate import spread


def one_box(score, *box, label=0) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([label], np.int64))


def sees_brightness(image) -> Detections:
    """What the ONNX test network computes."""
    return one_box(image.mean() / 255, 16, 16, 48, 48)


@pytest.fixture
def data(bright):
    return open_dataset(f"voc:{bright}", "val", classes=("dog", "cat"))


def test_a_plain_callable(data):
    seen = []

    def predict(image):
        seen.append(image)
        return sees_brightness(image)

    metrics = evaluate(predict, data, progress=False)
    assert [i.shape for i in seen] == [(64, 64, 3)] * 8
    dog, cat = metrics.classes
    assert (dog.name, dog.objects, dog.detections, dog.ap11, dog.ap_every) == ("dog", 4, 8, 1.0, 1.0)
    assert (cat.name, cat.objects, cat.detections, cat.ap11) == ("cat", 1, 0, 0.0)
    assert metrics.ap11 == metrics.ap_every == 0.5
    assert metrics.coco_ap == pytest.approx(0.5)
    assert (metrics.images, metrics.skipped, metrics.notes) == (8, 0, ())
    assert metrics.fingerprint == data.fingerprint()


def test_images_are_bgr(tmp_path, data):
    import cv2

    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), picture)
    assert np.array_equal(open_dataset(f"folder:{tmp_path}").image(0), picture)


def test_json_says_it_all(data):
    metrics = evaluate(sees_brightness, data, progress=False)
    raw = json.loads(metrics.to_json())
    assert raw["ap11"] == metrics.ap11
    assert raw["classes"][0]["ap11"] == 1.0
    assert raw["data"] == "voc:bright val"


def test_classes_are_matched_by_name(data):
    # the model's numbering is its own, and spelling differs a little
    other = ModelUnderTest(
        lambda images: [one_box(i.mean() / 255, 16, 16, 48, 48, label=2) for i in images],
        ("Traffic light", "CAT", "D-o g"),
    )
    metrics = evaluate(other, data, progress=False)
    assert {c.name: c.ap11 for c in metrics.classes} == {"dog": 1.0, "cat": 0.0}
    assert metrics.notes == ("1 classes of the model are not in the data: Traffic light",)


def test_a_class_the_model_does_not_know_is_left_out_and_said(data):
    metrics = evaluate(sees_brightness, data, classes=("dog",), progress=False)
    assert [c.name for c in metrics.classes] == ["dog"]
    assert metrics.ap11 == 1.0
    assert metrics.coco_ap == pytest.approx(1.0)
    assert metrics.notes == ("1 classes of the data are unknown to the model: cat",)


def test_no_class_in_common(data):
    with pytest.raises(DataError, match=r"The model's classes \(sheep\) and those of .* have none in common"):
        evaluate(sees_brightness, data, classes=("sheep",), progress=False)


def test_data_without_truth(bright):
    with pytest.raises(DataError, match="has no boxes to compare with"):
        evaluate(sees_brightness, open_dataset(f"folder:{bright}/JPEGImages"), progress=False)


def test_limit_is_spread_and_said(data):
    metrics = evaluate(sees_brightness, data, limit=4, progress=False)
    assert metrics.images == 4
    assert "measured on 4 of 8 images" in metrics.notes
    assert spread(8, 4) == [0, 2, 4, 6]
    assert spread(3, 10) == spread(3, None) == [0, 1, 2]


def test_broken_images_are_skipped_and_counted(bright, tmp_path):
    root = shutil.copytree(bright, tmp_path / "broken")
    picture = root / "JPEGImages" / "03.jpg"
    picture.write_bytes(picture.read_bytes()[:-50])
    data = open_dataset(f"voc:{root}", "val", classes=("dog", "cat"))
    metrics = evaluate(sees_brightness, data, progress=False)
    assert (metrics.images, metrics.skipped) == (7, 1)
    assert metrics.classes[0].objects == 3
    assert "1 images could not be read" in metrics.notes[0]
    assert "03.jpg is truncated" in metrics.notes[0]
    for file in (root / "JPEGImages").iterdir():
        file.write_bytes(b"")
    with pytest.raises(EmptyDataset, match="No image of voc:broken val can be read"):
        evaluate(sees_brightness, data, progress=False)


def test_without_faster_coco_eval_the_rest_is_measured(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    metrics = evaluate(sees_brightness, data, progress=False)
    assert metrics.ap11 == 0.5
    assert metrics.coco_ap is None
    assert metrics.notes[0].startswith("no COCO AP: COCO AP needs faster-coco-eval, which is not installed")


def test_images_come_in_batches(data):
    sizes = []

    def many(images):
        sizes.append(len(images))
        return [sees_brightness(i) for i in images]

    metrics = evaluate(ModelUnderTest(many, ("dog", "cat"), 3), data, progress=False)
    assert sizes == [3, 3, 2]
    assert metrics.ap11 == 0.5


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("batch", [None, 3])
def test_engines(data, onnx_file, engine, batch):
    pytest.importorskip(engine)
    from edgedet.runtime import open_engine

    with open_engine(onnx_file(f"batch{batch}.onnx", batch=batch), engine=engine) as opened:
        predict = engine_under_test(opened)
        assert predict.batch == (batch or 1)
        metrics = evaluate(predict, data, progress=False)
        found = predict(data.image(1))
    assert metrics.classes[0].ap11 == 1.0
    assert metrics.classes[0].detections == 8  # the dark ones are above EVAL_THRESHOLDS.score too
    assert np.allclose(found.boxes, [[16, 16, 48, 48]], atol=1e-4)
    assert found.scores[0] == pytest.approx(201 / 255, abs=0.01)


def test_torch_equals_the_numpy_decoder():
    torch = pytest.importorskip("torch")
    from edgedet.contract.postprocess import make_postprocessor
    from edgedet.contract.preprocess import preprocess
    from edgedet.evaluation.predict_torch import torch_under_test
    from edgedet.models import build, make_spec

    torch.manual_seed(0)
    model = build("yolo", 3, pretrained=False)
    model.train()
    spec = make_spec("yolo", model, ("a", "b", "c"), size=(64, 96))
    thresholds = replace(EVAL_THRESHOLDS, score=0.001)  # an untrained YOLO believes in nothing
    predict = torch_under_test(model, spec, batch=2, thresholds=thresholds)
    images = [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), dtype=np.uint8) for i in range(2)]
    found = predict.many(images)
    assert model.training  # put back
    model.eval()
    for image, got in zip(images, found, strict=True):
        inputs, transform = preprocess(image, spec.input)
        with torch.inference_mode():
            heads = {o.name: model(torch.from_numpy(inputs))[o.role].numpy() for o in spec.outputs}
        want = make_postprocessor(spec.with_(thresholds=thresholds))(heads, [transform])[0]
        assert len(got) == len(want) > 0
        assert np.allclose(got.boxes, want.boxes, atol=1e-2)
        assert np.allclose(got.scores, want.scores, rtol=1e-3, atol=1e-5)
        assert np.array_equal(got.labels, want.labels)
