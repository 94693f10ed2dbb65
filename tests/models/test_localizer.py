"""The localizer: its loss by hand, its pooling, and what it takes over from YOLO's weights."""

from __future__ import annotations

import math

import pytest
import torch

from edgedet.contract.targets import Targets
from edgedet.models import build
from edgedet.models.localizer import Localizer
from edgedet.training.checkpoint import start_from
from edgedet.weights import find


def model(**options: object) -> Localizer:
    torch.manual_seed(0)
    made = build("localizer", 2, size=[100, 200], pretrained=False, **options)
    assert isinstance(made, Localizer)
    return made


def target(*boxes: tuple[float, ...], ignored: bool = False) -> Targets:
    n = len(boxes)
    return Targets(torch.tensor(boxes).reshape(-1, 4), torch.ones(n).long(), torch.full((n,), ignored))


HEADS = {
    "box": torch.tensor([[[20.0, 10.0, 60.0, 40.0]], [[0.0, 0.0, 20.0, 10.0]]]),
    "class_logits": torch.tensor([[[0.0, 0.0]], [[0.0, math.log(3.0)]]]),
}


def test_the_loss_is_the_l2_distance_of_x0_y0_w_h_and_the_cross_entropy() -> None:
    # at a training size of 200 x 100: (0.1, 0.1, 0.3, 0.4) beside the truth's (0.2, 0.2, 0.2, 0.1)
    terms = model(box_weight=10.0).loss(HEADS, [target((40.0, 20.0, 80.0, 30.0)), target()])
    assert terms["box"].item() == pytest.approx(10 * (0.01 + 0.01 + 0.01 + 0.09), rel=1e-5)
    assert terms["class"].item() == pytest.approx(math.log(2), rel=1e-5)


def test_the_loss_is_a_mean_over_the_images_with_one_object() -> None:
    truth = [target((20.0, 10.0, 80.0, 50.0)), target((0.0, 0.0, 20.0, 20.0))]
    terms = model(box_weight=1.0).loss(HEADS, truth)
    assert terms["box"].item() == pytest.approx((0 + 0.01) / 2, rel=1e-5)
    assert terms["class"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    "other", [target((1.0, 1.0, 9.0, 9.0), (5.0, 5.0, 30.0, 30.0)), target((0.0, 0, 9, 9), ignored=True)]
)
def test_images_with_several_objects_or_an_ignored_one_teach_nothing(other: Targets) -> None:
    one = target((40.0, 20.0, 80.0, 30.0))
    alone, beside = (model().loss(HEADS, [one, second]) for second in (target(), other))
    assert {k: v.item() for k, v in alone.items()} == {k: v.item() for k, v in beside.items()}
    nothing = model().loss(HEADS, [other, other])
    assert [v.item() for v in nothing.values()] == [0.0, 0.0]


def test_a_fresh_model_says_the_middle_half_whatever_it_sees() -> None:
    made = model().eval()
    last = made.head[-1]
    torch.nn.init.zeros_(last.weight)
    heads = made(torch.randn(1, 3, 96, 192))
    # the mean of all places is the middle of the image; a box of half the training size around it
    assert heads["box"].tolist() == [[pytest.approx([96 - 50, 48 - 25, 100, 50], abs=1e-3)]]


def test_the_place_that_counts_says_the_box() -> None:
    made = model().eval()

    class Says(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grid = torch.zeros(1, 7, 6, 12)
            grid[0, 0, 2, 5] = 50.0  # row 2, column 5: its middle is at x 88, y 40
            grid[0, 1:5, 2, 5] = torch.tensor([-0.1, 0.2, 0.3, 0.4])
            grid[0, 5:, 2, 5] = torch.tensor([1.0, -1.0])
            return grid

    made.head = Says()
    heads = made(torch.randn(1, 3, 96, 192))
    expected = [88 - 0.1 * 200, 40 + 0.2 * 100, 0.3 * 200, 0.4 * 100]
    assert heads["box"].tolist() == [[pytest.approx(expected, abs=1e-3)]]
    assert heads["class_logits"].tolist() == [[pytest.approx([1.0, -1.0], abs=1e-4)]]


def test_all_but_the_last_layer_start_from_yolos_weights() -> None:
    made = build("localizer", 20, pretrained=False)
    assert start_from(made, find("yolo")) == ["head.3"]
