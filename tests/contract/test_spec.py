"""ModelSpec: the round trip, and a named error for every way to be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedet.contract.decode import DECODERS, MAP_DECODERS
from edgedet.contract.errors import SpecError
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.spec import MAP_KINDS, Decode, Input, ModelSpec, Output, Provenance, Thresholds


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
        ({"task": "poetry"}, "spec.task is 'poetry', expected one of detection"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"colour": "blue"}, "unknown fields: 'colour'"),
        ({"classes": []}, "classes must be named"),
        ({"classes": ["a", "a"]}, "classes must be named, each once"),
        ({"outputs": []}, "it has no outputs"),
        ({"outputs": None}, "spec.outputs is None"),
        ({"input": {"name": "x"}}, "spec.input has no field 'height'"),
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
    with pytest.raises(SpecError, match="input size is -1x480, expected 1 to"):
        ModelSpec.from_json(json.dumps(raw))


def semantic(**changes: Any) -> ModelSpec:
    given: dict[str, Any] = {
        "model": "unet",
        "task": "semantic",
        "input": Input("images", 32, 48, (0.5,) * 3, (0.5,) * 3),
        "outputs": (Output("class_map", "class_map", (None, 32, 48), "uint8"),),
        "decode": Decode("class_map"),
        "classes": ("road", "car", "sky"),
    }
    return ModelSpec(**given | changes)


def logits(*shape: int | None) -> tuple[Output, ...]:
    return (Output("class_logits", "class_logits", shape),)


def test_class_maps_and_logits_are_described() -> None:
    for spec in (
        semantic(),
        semantic(outputs=(Output("m", "class_map", (1, 32, 48), "int64"),)),
        semantic(outputs=logits(None, 3, 8, 12)),
        semantic(outputs=logits(None, 1, 32, 48), classes=("cell", "membrane")),
        semantic(classes=tuple(map(str, range(255)))),
    ):
        assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode": Decode("yolo")}, "task 'semantic' and decode kind 'yolo' do not go together"),
        ({"task": "detection"}, "task 'detection' and decode kind 'class_map' do not go together"),
        ({"classes": tuple(map(str, range(256)))}, "256 classes, a class map at most 255"),
        ({"outputs": (Output("m", "class_map", (None, 16, 24), "uint8"),)}, r"expected .* \(N, 32, 48\)"),
        ({"outputs": (Output("m", "class_map", (None, 32, 48)),)}, "class map is float32"),
        ({"outputs": logits(None, 4, 8, 12)}, r"expected \(N, 3, h, w\)"),
        ({"outputs": logits(None, 1, 8, 12)}, r"expected \(N, 3, h, w\)"),
        ({"outputs": logits(None, 3, 8)}, "class logits are"),
        ({"outputs": (Output("grid", "grid", (None, 3, 8, 12)),)}, "needs an output of role class_map"),
    ],
)
def test_a_wrong_semantic_spec_is_a_named_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        semantic(**change)


def test_the_kinds_of_maps_are_those_that_can_be_decoded() -> None:
    assert set(MAP_KINDS) == set(MAP_DECODERS)
    assert not set(MAP_KINDS) & set(DECODERS)


OLD = (
    '{"build":{},"classes":["cat","dog"],"decode":{"kind":"yolo","parameters":{"boxes_per_cell":2}},'
    '"input":{"batch":1,"colour":"RGB","height":64,"mean":[0.5,0.5,0.5],"name":"images","resize":"stretch",'
    '"std":[0.5,0.5,0.5],"width":96},"metrics":{"AP":0.5},"model":"yolo","outputs":[{"dtype":"float32",'
    '"name":"grid","role":"grid","shape":[1,12,2,3]}],"precision":"fp32","provenance":{"calibration":"",'
    '"data":"","tools":{},"weights_sha256":""},"spec_version":1,"task":"detection","thresholds":'
    '{"class_agnostic":false,"iou":0.45,"max_detections":100,"pre_nms":1000,"score":0.25}}'
)
"""As edgedet 0.1 wrote it."""


def test_what_edgedet_0_1_wrote_is_read_and_written_alike() -> None:
    spec = ModelSpec.from_json(OLD)
    make_postprocessor(spec)
    assert (spec.input.dtype, spec.input.layout) == ("float32", "NCHW")
    assert spec.extra_inputs == spec.stages == ()
    assert spec.to_json() == OLD  # so that it reads what we write
