"""From output tensors to results: what the decode kind yields, and values that no sound engine gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedet.contract.errors import EngineError, SpecError, UnknownName
from edgedet.contract.postprocess import MapPostprocessor, make_postprocessor
from edgedet.contract.preprocess import place
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.contract.spec import Decode, Input, ModelSpec, Output, Stage

INPUT = Input("images", 4, 6, (0.0,) * 3, (1.0,) * 3, batch=2)
BOXES = ModelSpec(
    "boxer",
    "detection",
    INPUT,
    (Output("b", "boxes", (2, 1, 4)), Output("s", "scores", (2, 1, 2))),
    Decode("dense"),
    ("a", "b"),
)
MAPS = ModelSpec(
    "mapper",
    "semantic",
    INPUT,
    (Output("m", "class_map", (2, 4, 6), "int64"),),
    Decode("class_map"),
    ("a", "b", "c"),
)
LOGITS = MAPS.with_(outputs=(Output("l", "class_logits", (2, 3, 4, 6)),))


def segment(outputs: dict[str, Any], spec: ModelSpec, transforms: list[Any]) -> list[Any]:
    return MapPostprocessor(spec)(outputs, transforms)


def maps(value: int = 0, dtype: type = np.int64) -> dict[str, Any]:
    array = np.arange(48).reshape(2, 4, 6) % 3
    array[1, 2, 5] = value
    return {"m": array.astype(dtype)}


def test_the_decode_kind_says_what_comes_out() -> None:
    transforms = [place(6, 4, INPUT)]
    boxes = {"b": np.array([[[1, 1, 3, 3]]] * 2, np.float32), "s": np.full((2, 1, 2), 0.9, np.float32)}
    (found,) = make_postprocessor(BOXES)(boxes, transforms)
    assert isinstance(found, Detections)
    (other,) = make_postprocessor(MAPS)(maps(), transforms)
    assert isinstance(other, SegmentationMap)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BOXES.with_(decode=Decode("yolo", {"boxes_per_cell": 2})), "no output has the role 'grid'"),
        (BOXES.with_(decode=Decode("dense", {"shape": 1})), "unexpected keyword argument"),
        (BOXES.with_(decode=Decode("dense", {"format": "polar"})), "format 'polar'"),
        (BOXES.with_(decode=Decode("dense", {"background": 2})), "background 2, expected 0 to 1"),
        (
            BOXES.with_(decode=Decode("dense", {"background": 0})),
            r"expected .* \(1, A, 2\)",
        ),
        (BOXES.with_(classes=("a", "b", "c")), r"scores \(1, 1, 2\), expected .* \(1, A, 3\)"),
        (BOXES.with_(outputs=(Output("b", "boxes", (2, 1, 5)), BOXES.outputs[1])), r"boxes \(1, 1, 5\)"),
        (BOXES.with_(task="instance"), "0 stages; instances take one"),
        (BOXES.with_(stages=(Stage("masks", "m.onnx", (), ()),)), "needs an engine for its stage 'masks'"),
        (LOGITS.with_(decode=Decode("class_map", {"scale": 2})), "unexpected keyword argument"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused_before_any_frame(spec: ModelSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_postprocessor(spec)
    with pytest.raises(UnknownName, match="no decoder is named 'dens'"):
        make_postprocessor(BOXES.with_(decode=Decode("dens")))


@pytest.mark.parametrize(
    ("form", "unit", "box"),
    [
        ("xyxy", "pixels", [1, 1, 3, 4]),
        ("xywh", "pixels", [1, 1, 2, 3]),
        ("cxcywh", "pixels", [2, 2.5, 2, 3]),
        ("xyxy", "fraction", [1 / 6, 1 / 4, 3 / 6, 1]),
        ("cxcywh", "fraction", [2 / 6, 2.5 / 4, 2 / 6, 3 / 4]),
    ],
)
def test_boxes_come_in_several_forms(form: str, unit: str, box: list[float]) -> None:
    outputs = (
        Output("b", "boxes", (2, 1, 4)),
        Output("s", "scores", (2, 1, 3)),
        Output("o", "objectness", (2, 1)),
    )
    parameters = {"format": form, "unit": unit, "background": 1}
    spec = BOXES.with_(outputs=outputs, decode=Decode("dense", parameters))
    tensors = {
        "b": np.array([[box]] * 2, np.float32),
        "s": np.array([[[0.1, 1.0, 0.8]]] * 2, np.float32),
        "o": np.full((2, 1), 0.5, np.float32),
    }
    (found,) = make_postprocessor(spec)(tensors, [place(6, 4, INPUT)])
    np.testing.assert_allclose(found.boxes, [[1, 1, 3, 4]], atol=1e-6)
    assert (found.labels.tolist(), found.scores.tolist()) == ([1], [pytest.approx(0.4)])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_maps_go_to_the_frames_size_and_are_the_callers_own(dtype: type) -> None:
    outputs = maps(dtype=dtype)
    whole, large = segment(outputs, MAPS, [place(6, 4, INPUT), place(12, 8, INPUT)])
    np.testing.assert_array_equal(whole.classes, outputs["m"][0])
    np.testing.assert_array_equal(large.classes, outputs["m"][1].repeat(2, axis=0).repeat(2, axis=1))
    kept = whole.classes.copy()
    outputs["m"][:] = 1
    np.testing.assert_array_equal(whole.classes, kept)
    assert whole.classes.dtype == np.uint8


def test_logits_are_decoded_here() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    (found,) = segment({"l": logits}, LOGITS, [place(6, 4, INPUT)])
    np.testing.assert_array_equal(found.classes, logits[0].argmax(0))


@pytest.mark.parametrize(
    ("value", "dtype"), [(3, np.uint8), (255, np.uint8), (-1, np.int32), (259, np.int64)]
)
def test_a_value_that_is_no_class_is_refused(value: int, dtype: type) -> None:
    both = [place(6, 4, INPUT)] * 2
    with pytest.raises(EngineError, match=rf"has the value {value}, expected 0 to 2"):
        segment(maps(value, dtype), MAPS, both)
    # what lies in a row of the batch that no frame filled is not looked at
    assert len(segment(maps(value, dtype), MAPS, both[:1])) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros((2, 3, 4, 6), np.float32)
    logits[0, 1, 2, 3] = value
    with pytest.raises(EngineError, match="not finite"):
        segment({"l": logits}, LOGITS, [place(6, 4, INPUT)])


@pytest.mark.parametrize("array", [np.zeros((2, 4, 6), np.float32), np.zeros((2, 6, 4), np.uint8)])
def test_a_map_of_another_shape_or_type_is_refused(array: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"expected integers \(1, 4, 6\)"):
        segment({"m": array}, MAPS, [place(6, 4, INPUT)])
