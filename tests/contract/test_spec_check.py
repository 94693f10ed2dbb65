"""Whatever a spec contains: an equal valid spec, or a SpecError, before any frame is seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from random import Random
from typing import Any

import pytest

from edgedet.contract.errors import EdgedetError, SpecError
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.spec import (
    Decode,
    Input,
    ModelSpec,
    Output,
    Provenance,
    Stage,
    Tensor,
    Thresholds,
)

BOXES = ModelSpec(
    model="yolo",
    task="detection",
    input=Input("images", 64, 96, (0.5, 0.25, 0.125), (0.5, 0.25, 1.0), batch=2),
    outputs=(Output("grid", "grid", (2, 13, 2, 3)),),
    decode=Decode("yolo", {"boxes_per_cell": 2, "side": [64, 96]}),
    classes=("cat", "dög", "鳥"),
    thresholds=Thresholds(0.3, 0.5, 500, 50, True),
    precision="int8",
    provenance=Provenance("ab" * 32, "voc", "100 images", {"torch": "2"}),
    metrics={"AP": 0.5},
    build={"library": "tensorrt_rtx"},
)
DENSE = replace(
    BOXES,
    outputs=(
        Output("b", "boxes", (None, 7, 4)),
        Output("s", "scores", (None, 7, 4)),
        Output("o", "objectness", (None, 7, 1)),
    ),
    decode=Decode("dense", {"format": "cxcywh", "unit": "fraction", "background": 0}),
    input=Input("images", 64, 96, (0.0,) * 3, (1.0,) * 3, "BGR", "letterbox", None, "uint8", "NHWC"),
)
ANCHORS = replace(
    BOXES,
    model="ssd",
    # 64 x 96: 2 x 3 positions of two shapes, and 1 x 2 of one
    outputs=(
        Output("class_logits", "class_logits", (None, 14, 4)),
        Output("deltas", "deltas", (None, 14, 4)),
    ),
    decode=Decode(
        "anchors",
        {
            "strides": [32, 64],
            "shapes": [[[20.5, 20], [30, 10]], [[60, 60]]],
            "variances": [0.1, 0.1, 0.2, 0.2],
        },
    ),
)
MAP = ModelSpec(
    model="unet",
    task="semantic",
    input=Input("images", 32, 48, (0.5,) * 3, (0.5,) * 3),
    outputs=(Output("logits", "class_logits", (None, 3, 8, 12)),),
    decode=Decode("class_map"),
    classes=("road", "car", "sky"),
)
MASKS = replace(
    DENSE,
    task="instance",
    extra_inputs=(Tensor("p", "proposals", (None, 100, 4)), Tensor("f", "features", (1, 8), "float16")),
    stages=(
        Stage(
            "masks",
            "masks.onnx",
            (Tensor("boxes", "boxes", (None, 4)), Tensor("scores", "scores", (None, 7))),
            (Tensor("masks", "masks", (None, 28, 28)),),
        ),
    ),
)
SPECS = {"boxes": BOXES, "dense": DENSE, "anchors": ANCHORS, "map": MAP, "masks": MASKS}


def judged(text: str) -> ModelSpec | None:
    """What a reader makes of a text: a spec that survives its round trip and is decoded, or None."""
    try:
        spec = ModelSpec.from_json(text)
    except SpecError as e:
        readable(e)
        return None
    assert ModelSpec.from_json(spec.to_json()) == spec
    try:
        make_postprocessor(spec)
    except EdgedetError as e:
        readable(e)
    return spec


def readable(error: EdgedetError) -> None:
    """A message for people: of a few lines, and without what a terminal obeys or cannot show."""
    text = str(error)
    assert len(text) < 1000
    assert text.isprintable()


@pytest.mark.parametrize("name", SPECS)
def test_the_round_trip(name: str) -> None:
    spec = SPECS[name]
    assert judged(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize("name", ["boxes", "dense", "anchors", "map"])
def test_they_can_be_decoded(name: str) -> None:
    make_postprocessor(SPECS[name])


# every field with every wrong kind of value ---------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value, itself included."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(raw: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of `raw` after change(container, key) of the value at `path`."""
    copy = json.loads(json.dumps({"": raw}))
    inner: Any = copy
    for key in ("", *path)[:-1]:
        inner = inner[key]
    change(inner, ("", *path)[-1])
    return copy[""]


WRONG: list[Any] = [
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 10**30, -(10**400), "", "x", "\ud800", "\0", "\x1b[31m",
    "9" * 5000, [], [None], [[]], [0] * 5000, {}, {"": {}}, {"name": 1}, [{"name": "a"}],
]  # fmt: skip
FREE = ("model", "name", "tools", "metrics", "build", "parameters", "data", "calibration", "weights_sha256")
"""Fields that may say anything of their type."""


@pytest.mark.parametrize("name", SPECS)
def test_every_field_with_every_wrong_value(name: str) -> None:
    raw = json.loads(SPECS[name].to_json())
    for path in places(raw):
        for wrong in WRONG:
            text = json.dumps(changed(raw, path, lambda c, k, w=wrong: c.__setitem__(k, w)))  # type: ignore[misc]
            spec = judged(text)
            assert spec is None or plausible(asdict(spec)), (path, wrong)


def plausible(raw: dict[str, Any]) -> bool:
    """No field of a spec that was taken has a value of another type or out of its range."""
    inputs, t = raw["input"], raw["thresholds"]
    numbers = (*inputs["mean"], *inputs["std"], t["score"], t["iou"], *raw["metrics"].values())
    return (
        all(type(n) is float or type(n) is int for n in numbers)
        and type(t["class_agnostic"]) is bool
        and 0 < inputs["height"] <= 1 << 14
        and 0 < t["pre_nms"] <= 2000
        and all(isinstance(c, str) and c for c in raw["classes"])
    )


@pytest.mark.parametrize("name", SPECS)
def test_every_field_left_out_or_added(name: str) -> None:
    raw = json.loads(SPECS[name].to_json())
    for path in places(raw)[1:]:
        judged(json.dumps(changed(raw, path, lambda c, k: c.pop(k))))
    for path in places(raw):
        text = json.dumps(changed(raw, path, lambda c, k: add_unknown(c[k])))
        allowed = path[-1:] and path[-1] in ("parameters", "tools", "build", "metrics")
        if '"unknown_field"' in text and not allowed:
            assert judged(text) is None, path


def add_unknown(value: Any) -> None:
    if isinstance(value, dict):
        value["unknown_field"] = "x"


# texts that are no spec --------------------------------------------------------------------------------

PLAIN = BOXES.to_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "not JSON"),
        (PLAIN.replace('"score":0.3', '"score":NaN'), "no number"),
        (PLAIN.replace('"score":0.3', '"score":1e400'), "no number"),
        (PLAIN.replace('"AP":0.5', '"AP":-1e999'), "no number"),
        (PLAIN.replace('"AP":0.5', '"AP":Infinity'), "no number"),
        (PLAIN.replace('"AP":0.5', '"AP":' + "9" * 10_000), "not JSON"),
        (PLAIN.replace('"height":64', '"height":64,"height":32'), "'height' twice"),
        (PLAIN.replace('"boxes_per_cell":2', '"boxes_per_cell":1,"boxes_per_cell":2'), "twice"),
        (PLAIN.replace('"cat"', '"\\ud800"'), "surrogate"),
        (PLAIN.replace('"yolo"', '"\\udfff"'), "surrogate"),
        (PLAIN.replace('"torch":"2"', '"\\udc00":"2"'), "surrogate"),
        (PLAIN.replace('"boxes_per_cell":2', '"boxes_per_cell":' + "[" * 300 + "]" * 300), "deep"),
        (PLAIN + "x", "not JSON"),
        ("\ufeff" + PLAIN, "not JSON"),
        (PLAIN[:-1], "not JSON"),
        ("nul", "not JSON"),
        ('"spec"', "JSON str"),
    ],
)
def test_json_that_says_two_things_or_nothing(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        ModelSpec.from_json(text)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


def test_deep_texts_leave_the_stack_as_it_was() -> None:
    limit = sys.getrecursionlimit()
    for _ in range(3):
        judged('{"a":' * 10_000)
    assert sys.getrecursionlimit() == limit


MADE: dict[str, dict[str, Any]] = {
    "the model is a number": {"model": 3},
    "classes in a list": {"classes": ["cat", "dog", "bird"]},
    "outputs that are none": {"outputs": ("grid",)},
    "decode by name": {"decode": "yolo"},
    "a task of another kind": {"task": ["detection"]},
    "an input that is none": {"input": None},
    "parameters with keys of numbers": {"decode": Decode("yolo", {1: 2})},  # type: ignore[dict-item]
    "parameters that are no JSON": {"decode": Decode("yolo", {"boxes_per_cell": object()})},
    "parameters that are not finite": {"decode": Decode("yolo", {"boxes_per_cell": float("nan")})},
    "metrics that are not finite": {"metrics": {"AP": float("inf")}},
    "metrics of text": {"metrics": {"AP": "0.5"}},
    "a bool for a number": {"thresholds": Thresholds(score=True)},
    "a class with half a character": {"classes": ("cat", "dog", "\ud800")},
    "a stage that is a tuple": {"stages": (("masks", "m.onnx", (), ()),)},
    "a stage outside the folder": {"stages": (Stage("m", "../m.onnx", (), ()),)},
    "a stage in another folder": {"stages": (Stage("m", "/etc/passwd", (), ()),)},
    "a stage that is the folder above": {"stages": (Stage("m", "..", (), ()),)},
    "a shape of fractions": {"outputs": (Output("g", "grid", (2, 13.0, 2, 3)),)},  # type: ignore[arg-type]
    "a shape with a free side": {"outputs": (Output("g", "grid", (2, 13, None, 3)),)},
    "a tensor of text": {"outputs": (Output("g", "grid", (2, 13, 2, 3), "str"),)},
    "a tensor larger than memory": {"outputs": (Output("g", "grid", (2, 13, 1 << 20, 1 << 20)),)},
}


@pytest.mark.parametrize("name", MADE)
def test_specs_made_in_code_are_judged_alike(name: str) -> None:
    with pytest.raises(SpecError):
        replace(BOXES, **MADE[name])


PARAMETERS: list[tuple[ModelSpec, dict[str, Any]]] = [
    (BOXES, {}),
    (BOXES, {"boxes_per_cell": 0}),
    (BOXES, {"boxes_per_cell": -1}),
    (BOXES, {"boxes_per_cell": 3}),
    (BOXES, {"boxes_per_cell": 2.0}),
    (BOXES, {"boxes_per_cell": True}),
    (BOXES, {"boxes_per_cell": 10**30}),
    (BOXES, {"boxes_per_cell": "2"}),
    (BOXES, {"boxes_per_cell": 2, "side": [64]}),
    (BOXES, {"boxes_per_cell": 2, "side": "ab"}),
    (BOXES, {"boxes_per_cell": 2, "side": [None, None]}),
    (BOXES, {"boxes_per_cell": 2, "side": [[64], [96]]}),
    (BOXES, {"boxes_per_cell": 2, "side": {"0": 64, "1": 96}}),
    (BOXES, {"boxes_per_cell": 2, "side": ["64", "96"]}),
    (BOXES, {"boxes_per_cell": 2, "side": [0, 96]}),
    (BOXES, {"boxes_per_cell": 2, "side": [1e308, 96]}),
    (BOXES, {"boxes_per_cell": 2, "more": 1}),
    (BOXES, {"heads": 1}),
    (DENSE, {"format": "yxyx"}),
    (DENSE, {"unit": ["fraction"]}),
    (DENSE, {"background": -1}),
    (DENSE, {"background": 4}),
    (DENSE, {"background": False}),
    (DENSE, {"background": None}),
    (DENSE, {"size": [1, 1]}),
    *(
        (ANCHORS, {**ANCHORS.decode.parameters, **change})
        for change in (
            {"strides": []},
            {"strides": [32]},
            {"strides": 32},
            {"strides": "ab"},
            {"strides": [32, 0]},
            {"strides": [32, -64]},
            {"strides": [32.0, 64.0]},
            {"strides": [32, True]},
            {"strides": [1, 1]},
            {"strides": [32, 32]},
            {"shapes": []},
            {"shapes": [[], [[60, 60]]]},
            {"shapes": [[[20, 20]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30, 0]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30, -1]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30, "1"]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30, 1e308]], [[60, 60]]]},
            {"shapes": [[[20, 20], [30, 10**400]], [[60, 60]]]},
            {"shapes": [["ab", "cd"], ["ef"]]},
            {"shapes": [{"0": 1}, [[60, 60]]]},
            {"shapes": 3},
            {"shapes": None},
            {"variances": [0.1, 0.1, 0.2]},
            {"variances": [0.1, 0.1, 0.2, 0]},
            {"variances": "abcd"},
            {"variances": 1},
            {"more": 1},
        )
    ),
    (ANCHORS, {}),
    (ANCHORS, {"strides": [32, 64]}),
    (MAP, {"threshold": 0.5}),
    (MAP, {"size": 3}),
]


@pytest.mark.parametrize(("spec", "parameters"), PARAMETERS)
def test_parameters_that_do_not_fit_are_refused_before_a_frame(
    spec: ModelSpec, parameters: dict[str, Any]
) -> None:
    with pytest.raises(SpecError):
        make_postprocessor(replace(spec, decode=Decode(spec.decode.kind, parameters)))


# a seeded fuzz --------------------------------------------------------------------------------------------


def mutated(raw: Any, random: Random) -> str:
    """The JSON of a spec after one to three changes: left out, replaced, moved, nested, renamed, cut."""
    for _ in range(random.choice((1, 1, 2, 3))):
        path = random.choice(places(raw))
        kind = random.choice(("delete", "replace", "replace", "swap", "nest", "rename", "number"))
        wrong = random.choice(WRONG)
        other = raw
        for key in random.choice(places(raw)):
            other = other[key]

        def change(c: Any, k: Any, kind: str = kind, wrong: Any = wrong, other: Any = other) -> None:
            if kind == "delete" and k != "":
                c.pop(k)
            elif kind == "swap":
                c[k] = other
            elif kind == "nest":
                c[k] = [c[k]] if random.random() < 0.5 else {"name": c[k]}
            elif kind == "rename" and isinstance(c, dict) and k != "":
                c[random.choice(("name", "x", k.upper(), "é", ""))] = c.pop(k)
            elif kind == "number" and type(c[k]) in (int, float):
                c[k] = random.choice((-c[k], c[k] * 10**6, c[k] + 0.5, 2**63, 1e300, str(c[k])))
            else:
                c[k] = wrong

        raw = changed(raw, path, change)
        if not isinstance(raw, (dict, list)):
            break
    text = json.dumps(raw, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.1:
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice(("", "}", '"', "NaN", "1e999", "\\u", "[" * 2000)) + text[at:]
    return text


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("part", range(4))
def test_damaged_specs_are_named(name: str, part: int) -> None:
    random = Random(f"{name} {part}")
    raw = json.loads(SPECS[name].to_json())
    taken = sum(judged(mutated(raw, random)) is not None for _ in range(150))
    assert taken < 120  # most damage is seen


# old and new -----------------------------------------------------------------------------------------------

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


def test_what_is_new_is_written_where_it_says_something() -> None:
    raw = json.loads(MASKS.to_json())
    assert (raw["input"]["dtype"], raw["input"]["layout"]) == ("uint8", "NHWC")
    assert [t["role"] for t in raw["extra_inputs"]] == ["proposals", "features"]
    assert raw["stages"][0]["file"] == "masks.onnx"
    assert MASKS.input.shape == (None, 64, 96, 3)
