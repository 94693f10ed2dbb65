"""From output tensors to results: what the decode kind yields, and values that no sound engine gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedet.contract.errors import EngineError, SpecError, UnknownName
from edgedet.contract.postprocess import detect, postprocess, segment
from edgedet.contract.preprocess import place
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.contract.spec import Decode, Input, ModelSpec, Output

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


def maps(value: int = 0, dtype: type = np.int64) -> dict[str, Any]:
    array = np.arange(48).reshape(2, 4, 6) % 3
    array[1, 2, 5] = value
    return {"m": array.astype(dtype)}


def test_the_decode_kind_says_what_comes_out() -> None:
    transforms = [place(6, 4, INPUT)]
    boxes = {"b": np.array([[[1, 1, 3, 3]]] * 2, np.float32), "s": np.full((2, 1, 2), 0.9, np.float32)}
    (found,) = postprocess(boxes, BOXES, transforms)
    assert isinstance(found, Detections)
    (other,) = postprocess(maps(), MAPS, transforms)
    assert isinstance(other, SegmentationMap)
    with pytest.raises(UnknownName, match="no decoder is named 'dens'"):
        postprocess(boxes, BOXES.with_(decode=Decode("dens")), transforms)
    with pytest.raises(SpecError, match="'mapper' gives a class per pixel"):
        detect(maps(), MAPS, transforms)
    with pytest.raises(SpecError, match="'boxer' gives no class per pixel"):
        segment(boxes, BOXES, transforms)


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
