"""ModelSpec: the round trip, and a named error for every way to be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedet.errors import SpecError
from edgedet.spec import Decode, Input, ModelSpec, Output, Provenance, Thresholds


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(
        model="yolo",
        task="detection",
        input=Input("images", 320, 480, (0.1, 1 / 3, 0.5), (0.25, 0.5, 1.0)),
        outputs=(Output("grid", "grid", (None, 30, 10, 15)),),
        decode=Decode("yolo", {"boxes_per_cell": 2}),
        classes=("cat", "dög"),
        thresholds=Thresholds(score=0.3, class_agnostic=True),
        precision="int8",
        provenance=Provenance("ab" * 32, "voc:VOC2007 train", "100 images", {"torch": "2.15"}),
        metrics={"AP": 0.5},
    )


def test_round_trip_is_exact(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert "\n" not in text
    assert ModelSpec.from_json(text) == spec
    assert ModelSpec.from_json(text).to_json() == text


def test_size_and_shape(spec: ModelSpec) -> None:
    assert spec.input.size == (320, 480)
    assert spec.input.shape == (None, 3, 320, 480)
    assert spec.output("grid").name == "grid"
    with pytest.raises(SpecError, match="no output of role 'boxes', only: grid"):
        spec.output("boxes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec_version": 99}, "version 99; this edgedet reads version 1"),
        ({"task": "poetry"}, "task is 'poetry', expected one of detection"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"colour": "blue"}, "unknown fields: colour"),
        ({"classes": []}, "classes must be named"),
        ({"classes": ["a", "a"]}, "classes must be named, each once"),
        ({"outputs": []}, "it has no outputs"),
        ({"outputs": None}, "Output is None"),
        ({"input": {"name": "x"}}, "Input is incomplete"),
        ({"thresholds": {"iou": 1.5}}, r"must lie in \[0, 1\]"),
        ({"thresholds": {"pre_nms": 5000}}, "pre_nms is 5000, expected 1 to 2000"),
        ({"thresholds": {"max_detections": 0}}, "max_detections is 0"),
    ],
)
def test_a_wrong_spec_is_a_named_error(spec: ModelSpec, change: dict[str, Any], message: str) -> None:
    raw = json.loads(spec.to_json()) | change
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_what_is_not_a_spec_at_all(text: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


def test_a_missing_field_is_named(spec: ModelSpec) -> None:
    raw = json.loads(spec.to_json())
    del raw["classes"]
    with pytest.raises(SpecError, match="classes"):
        ModelSpec.from_json(json.dumps(raw))


def test_input_values_are_checked(spec: ModelSpec) -> None:
    raw = json.loads(spec.to_json())
    raw["input"]["std"] = [0, 1, 1]
    with pytest.raises(SpecError, match="std positive"):
        ModelSpec.from_json(json.dumps(raw))
    raw = json.loads(spec.to_json())
    raw["input"]["height"] = -1
    with pytest.raises(SpecError, match="expected positive integers"):
        ModelSpec.from_json(json.dumps(raw))
