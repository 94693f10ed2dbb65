"""The rounds of suppression that a graph needs are found on real images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from edgedet.contract.errors import ImageError
from edgedet.contract.preprocess import preprocess
from edgedet.export.accuracy import Frames
from edgedet.export.console import LabelledConsole
from edgedet.export.options import Log
from edgedet.export.settle import settle
from edgedet.models import build, make_spec
from edgedet.models.faster_rcnn import FasterRcnn

SIZE = (96, 96)


def read(index: int) -> np.ndarray:
    """Pictures; the second is damaged."""
    if index == 1:
        raise ImageError("damaged")
    return np.random.default_rng(index).integers(0, 256, (60, 80, 3), np.uint8)


FRAMES = Frames("four pictures", range(4), read)


@pytest.fixture
def model() -> FasterRcnn:
    torch.manual_seed(0)
    made = build("faster-rcnn", 3, pretrained=False, width=16, hidden=32, proposals=16)
    assert isinstance(made, FasterRcnn)
    made.proposing = replace(made.proposing, iou=0.1)  # long chains
    return made


@pytest.fixture
def log() -> Log:
    return Log(LabelledConsole(Console(), quiet=True))


@torch.no_grad()
def test_too_few_rounds_are_raised_until_every_image_has_its_proposals(model: FasterRcnn, log: Log) -> None:
    spec = make_spec("faster-rcnn", model, ("a", "b", "c"), size=SIZE).input
    model.rounds = 1
    settle(model, spec, FRAMES, log)
    facts = log.facts["regions"]
    needed = facts["rounds needed"]
    assert facts == {"rounds": needed + needed // 2, "rounds needed": needed, "images": 3}
    assert model.rounds == facts["rounds"] > 1
    assert model.training, "its mode is put back"
    model.eval()
    images = torch.cat([torch.from_numpy(preprocess(read(i), spec)[0]) for i in (0, 2, 3)])
    assert max(model.rounds_needed(images[i : i + 1]) for i in range(3)) == needed
    plain = model(images)["proposals"]
    model.operators = True
    torch.testing.assert_close(plain, model(images)["proposals"])


def test_enough_rounds_stay(model: FasterRcnn, log: Log) -> None:
    spec = make_spec("faster-rcnn", model, ("a", "b", "c"), size=SIZE).input
    settle(model, spec, FRAMES, log)
    assert model.rounds == log.facts["regions"]["rounds"] == 24
    assert not log.notes


@pytest.mark.parametrize("frames", [None, Frames("one", [1], read)])
def test_without_images_it_is_said(model: FasterRcnn, log: Log, frames: Frames | None) -> None:
    spec = make_spec("faster-rcnn", model, ("a", "b", "c"), size=SIZE).input
    settle(model, spec, frames, log)
    assert model.rounds == 24
    assert log.facts == {}
    assert "24 rounds of suppression of proposals are enough was tried on no image" in log.notes[0]


def test_what_has_no_rounds_is_not_looked_at(model: FasterRcnn, log: Log) -> None:
    spec = make_spec("faster-rcnn", model, ("a", "b", "c"), size=SIZE).input
    model.operators, model.rounds = True, 1
    settle(model, spec, FRAMES, log)
    assert model.rounds == 1
    yolo = build("yolo", 3, pretrained=False, width=16)
    settle(yolo, make_spec("yolo", yolo, ("a", "b", "c"), size=SIZE).input, FRAMES, log)
    assert log.facts == {} and log.notes == []
