from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgedet.contract.errors import UsageError
from edgedet.models import build
from edgedet.models.faster_rcnn import FasterRcnn


def fresh(neck: str) -> FasterRcnn:
    torch.manual_seed(0)
    model = build("faster-rcnn", 3, pretrained=False, neck=neck, proposals=32).eval()
    assert isinstance(model, FasterRcnn)
    return model


def images() -> torch.Tensor:
    return torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("neck", ["fpn", "none"])
@torch.no_grad()
def test_both_forms_of_the_network_are_equal(neck: str) -> None:
    model = fresh(neck)
    plain = model(images())
    model.operators = True
    for role, value in model(images()).items():
        torch.testing.assert_close(value, plain[role], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_is_known_how_many_rounds_of_suppression_are_enough() -> None:
    model = fresh("fpn")
    model.proposing = replace(model.proposing, iou=0.1)
    needed = model.rounds_needed(images())
    assert 1 < needed <= model.rounds
    plain = {}
    for rounds in (1, needed):
        model.rounds = rounds
        assert model.proposing.rounds == rounds
        plain[rounds] = model(images())["proposals"]
    model.operators = True
    greedy = model(images())["proposals"]
    torch.testing.assert_close(plain[needed], greedy)
    assert not torch.allclose(plain[1], greedy)


def test_without_the_pyramid_nine_anchors_stand_at_each_position() -> None:
    model = fresh("none")
    assert model.anchors((128, 96), images()).shape == (8 * 6 * 9, 4)
    terms = model.train()(images())
    assert terms["proposals"].shape == (2, 32, 4)


def test_another_neck_is_refused() -> None:
    with pytest.raises(UsageError, match="neck is 'pan', expected 'fpn' or 'none'"):
        fresh("pan")
