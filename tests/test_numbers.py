"""Numbers that cannot be meant, given to the library: a usage error from the first call, before any work.

What is worked on is absent, so that work would be another error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedet.calib.images import CalibrationSet
from edgedet.contract.errors import UsageError
from edgedet.evaluation import evaluate, evaluate_semantic
from edgedet.evaluation.evaluate import spread
from edgedet.runtime import CpuPredictor, Pipeline, open_engine, open_source

NOTHING: Any = None

CALLS: dict[str, Callable[[], object]] = {
    "limit": lambda: spread(10, 0),
    "iou": lambda: evaluate(NOTHING, NOTHING, iou=math.nan),
    "iou of 0": lambda: evaluate(NOTHING, NOTHING, iou=0),
    "calibration images": lambda: CalibrationSet(NOTHING, NOTHING, 0),
    "threads": lambda: open_engine("absent.onnx", threads=0),
    "millions of threads": lambda: open_engine("absent.onnx", threads=10**6),
    "streams": lambda: open_engine("absent.onnx", streams=-1),
    "batch": lambda: CpuPredictor(NOTHING, batch=0),
    "in flight": lambda: CpuPredictor(NOTHING, in_flight=0),
    "timeout of an inference": lambda: CpuPredictor(NOTHING, timeout=math.nan),
    "limit of a pipeline": lambda: Pipeline(NOTHING, NOTHING, limit=0),
    "timeout of a pipeline": lambda: Pipeline(NOTHING, NOTHING, timeout=math.inf),
    "timeout of a source": lambda: open_source("absent.mp4", timeout=math.nan),
    "reconnects": lambda: open_source("absent.mp4", reconnects=-1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_runtime_and_evaluation_refuse(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="expected a"):
        call()


RECIPES = [
    *({name: value} for name in ("lr", "clip") for value in (0, -1.0, math.nan, math.inf)),
    *({name: value} for name in ("backbone_lr", "weight_decay") for value in (-1.0, math.nan, math.inf)),
    *(
        {name: value}
        for name in ("final_lr", "ema", "mosaic", "letterbox")
        for value in (-0.1, 1.5, math.nan)
    ),
    *({name: value} for name in ("epochs", "batch") for value in (0, 1.5, True)),
    *({name: value} for name in ("warmup", "patience", "mild_epochs") for value in (-1, 0.5)),
    *({"window": window} for window in ((0, 320), (320, 10**9))),
    *({"scale": scale} for scale in ((0.0, 1.0), (2.0, 0.5), (1.0, math.inf), (math.nan, 1.0))),
]


@pytest.mark.parametrize("numbers", RECIPES, ids=str)
def test_a_recipe_refuses(numbers: dict[str, Any]) -> None:
    from edgedet.training.recipe import Recipe

    with pytest.raises(UsageError, match="expected a"):
        Recipe(**numbers)


@pytest.mark.parametrize("name", ["workers", "state_every", "eval_every", "eval_limit"])
def test_a_training_refuses(name: str) -> None:
    pytest.importorskip("torch", reason="needs torch (extra train)")
    from edgedet.training.loop import Trainer

    with pytest.raises(UsageError, match=f"{name} is -1, expected a whole number"):
        Trainer(NOTHING, NOTHING, NOTHING, None, NOTHING, NOTHING, NOTHING, **{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5])
def test_a_seed_that_is_none(seed: int) -> None:
    pytest.importorskip("torch", reason="needs torch (extra train)")
    from edgedet.training.determinism import deterministic

    with pytest.raises(UsageError, match="the seed is"), deterministic(seed):
        pass


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yolo", {"giou": math.nan}),
        ("yolo", {"giou": -1}),
        ("yolo", {"width": 0}),
        ("yolo", {"width": 19.2}),
        ("yolo", {"boxes_per_cell": 0}),
        ("yolo", {"frozen_stages": -1}),
        ("ssd", {"smallest": math.inf}),
        ("localizer", {"box_weight": -10}),
        ("fast-rcnn", {"proposals": 0}),
    ],
    ids=str,
)
def test_a_model_refuses(name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="needs torch (extra train)")
    from edgedet.models import build

    with pytest.raises(UsageError, match=f"{next(iter(options))} is .*expected a"):
        build(name, 2, pretrained=False, **options)


@pytest.mark.parametrize(
    "numbers",
    [{"calib_images": 0}, {"eval_images": 0}, {"max_drop": math.nan}, {"min_agreement": 101}],
    ids=str,
)
def test_an_export_refuses(numbers: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx (extra export)")
    from edgedet.export.options import ExportOptions

    with pytest.raises(UsageError, match="expected a"):
        ExportOptions("yolo", tmp_path, **numbers).check()


@pytest.mark.parametrize("numbers", [{"frames": 0, "rounds": 1}, {"frames": 10, "rounds": 0}], ids=str)
def test_a_measurement_refuses(numbers: dict[str, int]) -> None:
    from edgedet.bench.measure import measure

    with pytest.raises(UsageError, match="expected a whole number"):
        measure([], "absent.mp4", **numbers)


def test_masks_near_no_boundary() -> None:
    class OneClass:
        semantic, name, classes = True, "masks", ("road",)

    with pytest.raises(UsageError, match="a radius of trimaps is 0"):
        evaluate_semantic(NOTHING, OneClass(), trimaps=(0,))  # type: ignore[arg-type]
