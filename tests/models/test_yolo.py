"""YOLO's loss against values computed by hand, term by term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgedet import weights
from edgedet.contract.errors import UnknownName
from edgedet.contract.targets import Targets
from edgedet.models.yolo import Yolo, YoloLoss, assign_cells, cells_beside
from edgedet.training.checkpoint import load_model, start_from

CELL = 32
SIZE = (64, 64)


def target(boxes: list[list[float]], labels: list[int], ignore: list[bool] | None = None) -> Targets:
    skip = ignore or [False] * len(boxes)
    return Targets(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(skip, dtype=torch.bool),
    )


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def empty_grid(b: int = 2, k: int = 3) -> Tensor:
    """A 2 x 2 grid where nothing is seen: confidence 0 to within 1e-9."""
    grid = torch.zeros(1, 5 * b + k, 2, 2, dtype=torch.float64)
    for i in range(b):
        grid[:, 5 * i + 4] = -21.0
    return grid


def test_every_term_by_hand() -> None:
    # one object, 16 x 32 px, centre (40, 16): column 1, row 0, offset (0.25, 0.5); image 64 x 64
    truth = target([[32, 0, 48, 32]], [1])
    grid = empty_grid()
    # box 1 answers: it lies at offset (0.5, 0.5), of the truth's size, with confidence 0.6
    grid[0, 5:10, 0, 1] = torch.tensor([0.5, 0.5, 0.5, math.sqrt(0.5), logit(0.6)], dtype=torch.float64)
    # box 0 is far smaller and claims 0.3
    grid[0, 0:5, 0, 1] = torch.tensor([0.5, 0.5, 0.1, 0.1, logit(0.3)], dtype=torch.float64)
    grid[0, 10:, 0, 1] = torch.tensor([0.0, math.log(2), 0.0])
    terms = YoloLoss(2, probability_loss="squared")(grid, [truth], CELL, SIZE)
    # IoU: 16 px wide boxes, 8 px apart: 8 / 24
    iou = 8 / 24
    assert terms["xy"].item() == pytest.approx(5 * 0.25**2, rel=1e-5)
    assert terms["wh"].item() == pytest.approx(0, abs=1e-10)
    assert terms["object"].item() == pytest.approx((0.6 - iou) ** 2, rel=1e-5)
    assert terms["no_object"].item() == pytest.approx(0.5 * 0.3**2, rel=1e-5)
    assert terms["class"].item() == pytest.approx((0.5 - 1) ** 2 + 2 * 0.25**2, rel=1e-5)
    terms = YoloLoss(2)(grid, [truth], CELL, SIZE)
    assert terms["object"].item() == pytest.approx(-iou * math.log(0.6) - (1 - iou) * math.log(0.4), rel=1e-5)
    assert terms["no_object"].item() == pytest.approx(-0.5 * math.log(0.7), rel=1e-5)
    assert terms["class"].item() == pytest.approx(-math.log(2 / 4), rel=1e-5)


def test_the_square_roots_of_width_and_height_are_compared() -> None:
    truth = target([[16, 8, 48, 56]], [0])  # centre (32, 32): row 1, column 1; 32 x 48 of 64 x 64
    grid = empty_grid()
    grid[0, 0:4, 1, 1] = torch.tensor([0, 0, 0.5, 0.5])
    grid[0, 5:9, 1, 1] = torch.tensor([0, 0, 0.01, 0.01])
    terms = YoloLoss(2)(grid, [truth], CELL, SIZE)
    expected = 5 * ((0.5 - math.sqrt(0.5)) ** 2 + (0.5 - math.sqrt(0.75)) ** 2)
    assert terms["wh"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["xy"].item() == pytest.approx(0, abs=1e-10)


def test_the_giou_term_is_the_responsible_boxes() -> None:
    # as above: the boxes overlap by 8 of 24 px and fill their hull
    truth = target([[32, 0, 48, 32]], [1])
    grid = empty_grid()
    grid[0, 5:9, 0, 1] = torch.tensor([0.5, 0.5, 0.5, math.sqrt(0.5)], dtype=torch.float64)
    grid[0, 0:4, 0, 1] = 0.1
    grid.requires_grad_()
    loss = YoloLoss(2)
    assert "giou" not in loss(grid, [truth], CELL, SIZE)
    loss.giou = 3.0
    terms = loss(grid, [truth], CELL, SIZE)
    assert terms["giou"].item() == pytest.approx(3 * (1 - 8 / 24), rel=1e-5)
    terms["giou"].backward()
    assert grid.grad is not None
    assert grid.grad[0, 5, 0, 1].abs() > 0
    assert not grid.grad[0, 0:5, 0, 1].any()  # the other box is not responsible
    assert not grid.grad[0, :, 1].any()  # no other cell has its middle inside the object


def test_the_giou_term_is_the_mean_over_the_cells_of_an_object() -> None:
    # the object covers all four cells; (1, 1) answers with a perfect box, the others hold nothing at all
    truth = target([[0, 0, 64, 64]], [0])
    grid = torch.zeros(1, 8, 2, 2, dtype=torch.float64)
    grid[0, :4, 1, 1] = torch.tensor([0, 0, 1, 1])
    loss = YoloLoss(1)
    loss.giou = 1.0
    # a box of no area in the corner of its cell: IoU 0, and the hull is the object itself: GIoU 0
    assert loss(grid, [truth], CELL, SIZE)["giou"].item() == pytest.approx(3 / 4, rel=1e-5)


def test_the_giou_term_comes_when_its_share_of_the_training_is_done() -> None:
    model = Yolo(2, giou=4.0, giou_from=0.5, pretrained=False)
    weights = []
    for share in (0.0, 0.49, 0.5, 0.9, 0.0):
        model.begin_epoch(share)
        weights.append(model.criterion.giou)
    assert weights == [0.0, 0.0, 4.0, 4.0, 0.0]
    assert Yolo(2, giou=4.0, pretrained=False).criterion.giou == 4.0
    assert Yolo(2, pretrained=False).criterion.giou == 0.0


def test_cells_beside_lie_inside_the_object_and_the_smallest_takes_them() -> None:
    # 4 x 4 cells of 32 px; a: answered for by (1, 1), its middle; b by (2, 2); both cover cell (1, 2)
    where = torch.tensor([[0, 1, 1], [0, 2, 2]])
    truth = torch.tensor([[0.0, 0, 96, 96], [60, 40, 110, 110]])
    near, owner = cells_beside(where, truth, 4, 4, CELL)
    found = {tuple(cell[1:]): o for cell, o in zip(near.tolist(), owner.tolist(), strict=True)}
    assert found == {(0, 0): 0, (0, 1): 0, (0, 2): 0, (1, 0): 0, (2, 0): 0, (2, 1): 0, (1, 2): 1}
    assert (near[:, 0] == 0).all()


def test_cells_beside_of_no_objects_are_none() -> None:
    near, owner = cells_beside(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 4), 4, 4, CELL)
    assert near.shape == (0, 3)
    assert owner.shape == (0,)


def test_a_box_that_fits_is_not_punished_though_another_answers() -> None:
    truth = target([[0, 0, 64, 64]], [0])  # its centre lies in cell (1, 1)
    grid = empty_grid(b=1)
    grid[0, :5, 0, 0] = torch.tensor([1, 1, 1, 0.9, logit(0.8)])  # 64 x 52 px: IoU 0.81
    grid[0, :5, 0, 1] = torch.tensor([0, 1, 1, 0.7, logit(0.4)])  # 64 x 31 px: IoU 0.49
    terms = YoloLoss(1, probability_loss="squared")(grid, [truth], CELL, SIZE)
    assert terms["no_object"].item() == pytest.approx(0.5 * 0.4**2, rel=1e-5)
    terms = YoloLoss(1, good_enough=0.9, probability_loss="squared")(grid, [truth], CELL, SIZE)
    assert terms["no_object"].item() == pytest.approx(0.5 * (0.4**2 + 0.8**2), rel=1e-5)


def test_an_image_without_objects_only_punishes_confidence() -> None:
    grid = empty_grid()
    grid[0, 4, 1, 0] = logit(0.4)
    terms = YoloLoss(2, probability_loss="squared")(grid, [target([], [])], CELL, SIZE)
    assert {k: v.item() for k, v in terms.items() if k != "no_object"} == dict.fromkeys(
        ("xy", "wh", "object", "class"), 0
    )
    assert terms["no_object"].item() == pytest.approx(0.5 * 0.4**2, rel=1e-5)


def test_an_ignored_object_is_neither_sought_nor_punished() -> None:
    grid = empty_grid()
    grid[0, 4, 0, 0] = logit(0.7)
    terms = YoloLoss(2)(grid, [target([[0, 0, 20, 20]], [0], [True])], CELL, SIZE)
    assert sum(v.item() for v in terms.values()) == pytest.approx(0, abs=1e-9)


def test_the_largest_object_of_a_cell_is_kept() -> None:
    boxes = [[10.0, 10, 20, 20], [0, 0, 30, 30], [40, 40, 60, 60], [0, 0, 31, 31]]
    where, truth, labels, ignored = assign_cells(
        [target(boxes, [0, 1, 2, 1], [False, False, False, True])], 2, 2, CELL, torch.device("cpu")
    )
    assert where.tolist() == [[0, 0, 0], [0, 1, 1]]
    assert truth.tolist() == [boxes[1], boxes[2]]
    assert labels.tolist() == [1, 2]
    assert ignored[0].tolist() == [[True, False], [False, False]]


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell() -> None:
    where, *_ = assign_cells([target([[62, 62, 66, 66]], [0])], 2, 2, CELL, torch.device("cpu"))
    assert where.tolist() == [[0, 1, 1]]


def test_terms_are_means_over_images() -> None:
    truth = target([[32, 0, 48, 32]], [1])
    grid = torch.randn(1, 13, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = YoloLoss(2)(grid, [truth], CELL, SIZE)
    two = YoloLoss(2)(grid.expand(2, -1, -1, -1), [truth, truth], CELL, SIZE)
    for k in one:
        assert two[k].item() == pytest.approx(one[k].item(), rel=1e-6)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite(scale: float) -> None:
    grid = torch.full((1, 13, 2, 2), scale, requires_grad=True)
    total = torch.stack(list(YoloLoss(2)(grid, [target([[32, 0, 48, 32]], [1])], CELL, SIZE).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert grid.grad is not None
    assert bool(torch.isfinite(grid.grad).all())


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="probability_loss is 'hinge'"):
        YoloLoss(2, probability_loss="hinge")


# the pyramid --------------------------------------------------------------------------------------------


def test_a_pyramid_is_brought_to_the_stride_of_the_grid() -> None:
    torch.manual_seed(0)
    model = Yolo(3, neck="fpn", size=(64, 96), pretrained=False).train()
    x = torch.randn(2, 3, 64, 96)
    heads = model(x)
    assert heads["grid"].shape == (2, 13, 4, 6)
    (out,) = model.outputs((64, 96))
    assert heads["grid"].shape[1:] == out.shape[1:]
    torch.stack(list(model.training_loss(x, [target([[10, 10, 50, 60]], [1])] * 2).values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    # every level reaches the grid
    levels = [torch.zeros(1, c, 8 // 2**i, 12 // 2**i) for i, c in enumerate(model.backbone.channels)]
    model.eval()
    with torch.no_grad():
        plain = model.head(model._joined(levels))
        for i in range(3):
            other = [torch.ones_like(x) if j == i else x for j, x in enumerate(levels)]
            assert not torch.equal(model.head(model._joined(other)), plain)


def test_without_a_pyramid_the_layers_are_those_of_the_shipped_weights() -> None:
    model, _ = load_model(weights.find("yolo"))
    assert isinstance(model, Yolo)
    assert model.neck is None
    assert {n.split(".")[0] for n in model.state_dict()} == {"backbone", "fine", "coarse", "head"}


def test_a_pyramid_starts_from_the_shipped_backbone() -> None:
    model = Yolo(20, neck="fpn", pretrained=False)
    fresh = start_from(model, weights.find("yolo"))
    assert not [n for n in fresh if n.startswith(("backbone.", "head."))]


def test_another_neck_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"no neck is named 'fpm'\. Did you mean 'fpn'"):
        Yolo(3, neck="fpm", pretrained=False)


# the cells beside ---------------------------------------------------------------------------------------


def three_cells(k: int = 3) -> Tensor:
    """3 x 3 cells of 32 px, one box each, for an object over the middle row's cells: (10, 16, 86, 80).

    The middle cell has its box with confidence 0.8; the right one too, with 0.6; the left one has the left
    half of it, with 0.3.
    """
    grid = torch.zeros(1, 5 + k, 3, 3, dtype=torch.float64)
    grid[:, 4] = -21.0
    tall, wide, half = math.sqrt(64 / 96), math.sqrt(76 / 96), math.sqrt(38 / 96)
    grid[0, :5, 1, 0] = torch.tensor([29 / 32, 0.5, half, tall, logit(0.3)])
    grid[0, :5, 1, 1] = torch.tensor([0.5, 0.5, wide, tall, logit(0.8)])
    grid[0, :5, 1, 2] = torch.tensor([-0.5, 0.5, wide, tall, logit(0.6)])
    grid[0, 5, 1, 0] = grid[0, 6, 1, 2] = math.log(2)
    return grid


def test_cells_beside_answer_with_less_weight() -> None:
    """Confidence by their own box's overlap, as a sum; the class as a mean; nothing else changes."""
    truth, side = [target([[10, 16, 86, 80]], [1])], (96, 96)
    squared = {"probability_loss": "squared"}
    plain = YoloLoss(1, **squared)(three_cells(), truth, CELL, side)
    terms = YoloLoss(1, neighbours=0.25, **squared)(three_cells(), truth, CELL, side)
    assert plain["object"].item() == pytest.approx((1 - 0.8) ** 2, rel=1e-4)
    # the right box overlaps by more than 0.6: no background even then
    assert plain["no_object"].item() == pytest.approx(0.5 * 0.3**2, rel=1e-4)
    beside = (1 - 0.6) ** 2 + (0.5 - 0.3) ** 2
    assert terms["object"].item() == pytest.approx((1 - 0.8) ** 2 + 0.25 * beside, rel=1e-4)
    assert terms["no_object"].item() == pytest.approx(0, abs=1e-8)
    # of three classes: 1/3 each in the middle; 1/2, 1/4, 1/4 on the left; 1/4, 1/2, 1/4 on the right
    middle, left, right = 6 / 9, 1 / 4 + 9 / 16 + 1 / 16, 1 / 16 + 1 / 4 + 1 / 16
    assert terms["class"].item() == pytest.approx(middle + 0.25 * (left + right) / 2, rel=1e-4)
    assert plain["class"].item() == pytest.approx(middle, rel=1e-4)
    terms = YoloLoss(1, neighbours=0.25)(three_cells(), truth, CELL, side)
    expected = -math.log(0.8) - 0.25 * (math.log(0.6) + 0.5 * math.log(0.3) + 0.5 * math.log(0.7))
    assert terms["object"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["class"].item() == pytest.approx(
        math.log(3) + 0.25 * (math.log(4) + math.log(2)) / 2, rel=1e-4
    )
    for name in ("xy", "wh"):
        assert terms[name].item() == pytest.approx(plain[name].item(), abs=1e-8)


def test_beside_a_box_without_overlap_is_background_as_before() -> None:
    """With the weight of background: an untrained network's loss is the lecture's but for the class."""
    grid, truth = empty_grid(b=1), [target([[0, 0, 64, 64]], [0])]
    grid[0, 4] = logit(0.3)
    plain, beside = (YoloLoss(1, neighbours=n)(grid, truth, CELL, SIZE) for n in (0.0, 0.5))
    for terms in (plain, beside):
        total = terms["object"] + terms["no_object"]
        assert total.item() == pytest.approx(-(1 + 3 * 0.5) * math.log(0.7), rel=1e-4)
    assert beside["object"].item() == pytest.approx(-(1 + 3 * 0.5) * math.log(0.7), rel=1e-4)


def test_cells_beside_learn_only_confidence_and_class() -> None:
    grid = three_cells().requires_grad_()
    loss = YoloLoss(1, neighbours=0.25)
    terms = loss(grid, [target([[10, 16, 86, 80]], [1])], CELL, (96, 96))
    torch.stack(list(terms.values())).sum().backward()
    assert grid.grad is not None
    assert not grid.grad[0, :4, 1, 0].any()
    assert grid.grad[0, 4:, 1, 0].all()


def test_cells_beside_an_ignored_object_are_not_punished() -> None:
    grid, truth = three_cells(), [target([[10, 16, 86, 80]], [1], [True])]
    grid[0, :4] = 0
    terms = YoloLoss(1, neighbours=0.25, probability_loss="squared")(grid, truth, CELL, (96, 96))
    assert sum(v.item() for v in terms.values()) == pytest.approx(0, abs=1e-8)
    terms = YoloLoss(1, probability_loss="squared")(grid, truth, CELL, (96, 96))
    assert terms["no_object"].item() == pytest.approx(0.5 * (0.3**2 + 0.6**2), rel=1e-4)


def test_a_model_takes_the_weight_of_the_cells_beside() -> None:
    assert Yolo(2, neighbours=0.5, pretrained=False).criterion.neighbours == 0.5
    assert Yolo(2, pretrained=False).criterion.neighbours == 0.0
