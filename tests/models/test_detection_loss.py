"""Every loss against values computed by hand, and torchvision's where the form coincides."""

from __future__ import annotations

import math

import pytest
import torch

from edgedet.models.detection_loss import region_loss, rpn_loss, smooth_l1, ssd_loss


def test_smooth_l1_is_the_lectures() -> None:
    x = torch.tensor([0.0, 0.5, -0.5, 1.0, -3.0])
    assert smooth_l1(x).tolist() == [0, 0.125, 0.125, 0.5, 2.5]
    more = torch.randn(100, generator=torch.Generator().manual_seed(0)) * 3
    theirs = torch.nn.functional.smooth_l1_loss(more, torch.zeros(100), reduction="none")
    torch.testing.assert_close(smooth_l1(more), theirs)


def test_rpn_loss_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(3)])
    wanted = torch.tensor([1.0, 1.0, 0.0])
    deltas, truth = torch.tensor([[0.5, 0, 0, 0], [0, 3.0, 0, 0]]), torch.zeros(2, 4)
    classes = math.log(2) - math.log(0.75) - math.log(0.25)
    terms = rpn_loss(logits, wanted, deltas, truth, 1)
    assert terms["rpn_class"].item() == pytest.approx(classes / 256)
    assert terms["rpn_box"].item() == pytest.approx(10 / 2400 * (0.125 + 2.5))
    terms = rpn_loss(logits, wanted, deltas, truth, 2, n_cls=3, n_box=5, balance=1)
    assert terms["rpn_class"].item() == pytest.approx(classes / 3 / 2)
    assert terms["rpn_box"].item() == pytest.approx((0.125 + 2.5) / 5 / 2)


def test_rpn_loss_of_nothing_is_0() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    terms = rpn_loss(nothing, torch.zeros(0), nothing.reshape(0, 4), torch.zeros(0, 4), 2)
    assert {k: v.item() for k, v in terms.items()} == {"rpn_class": 0, "rpn_box": 0}
    torch.stack(list(terms.values())).sum().backward()


def test_region_loss_by_hand() -> None:
    # two regions, K = 2: background and class 2
    logits = torch.tensor([[math.log(2), 0, 0], [0, 0, math.log(2)]])
    deltas = torch.tensor([[9.0] * 8, [9.0] * 4 + [0.5, 0, 2.0, 0]])
    terms = region_loss(logits, deltas, torch.tensor([0, 2]), torch.tensor([[7.0] * 4, [0.0] * 4]))
    assert terms["class"].item() == pytest.approx(-2 * math.log(0.5) / 2)
    assert terms["box"].item() == pytest.approx((0.125 + 1.5) / 2)
    nothing = region_loss(torch.zeros(0, 3), torch.zeros(0, 8), torch.zeros(0).long(), torch.zeros(0, 4))
    assert {k: v.item() for k, v in nothing.items()} == {"class": 0, "box": 0}


def test_region_loss_is_torchvisions_but_for_the_place_of_the_bend() -> None:
    from torchvision.models.detection.roi_heads import fastrcnn_loss

    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(40, 5, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    # their boxes have four deltas of background, and bend at 1/9: beyond 1 the two differ by 0.5 - 1/18 each
    deltas, wanted = torch.randn(40, 16, generator=generator), torch.full((40, 4), 9.0)
    theirs = fastrcnn_loss(logits, torch.cat([torch.zeros(40, 4), deltas], 1), [labels], [wanted])
    ours = region_loss(logits, deltas, labels, wanted)
    torch.testing.assert_close(ours["class"], theirs[0], rtol=1e-4, atol=1e-4)
    apart = 4 * (0.5 - 1 / 18) * (labels > 0).sum() / 40
    torch.testing.assert_close(ours["box"], theirs[1] - apart, rtol=1e-4, atol=1e-4)


def test_ssd_loss_by_hand() -> None:
    # K = 1, six anchors of one image: a positive, an ignored one, four negatives of which the hardest three
    logits = torch.zeros(1, 6, 2)
    logits[0, :, 1] = torch.tensor([math.log(3), 50, math.log(9), 0, math.log(4), math.log(1 / 9)])
    labels = torch.tensor([[1, -1, 0, 0, 0, 0]])
    deltas = torch.full((1, 6, 4), 7.0)
    deltas[0, 0] = torch.tensor([0.5, 0, 0, 3.0])
    terms = ssd_loss(logits, deltas, labels, torch.zeros(1, 4))
    assert terms["class"].item() == pytest.approx(-math.log(0.75) + math.log(10) + math.log(2) + math.log(5))
    assert terms["box"].item() == pytest.approx(0.125 + 2.5)
    terms = ssd_loss(logits, deltas, labels, torch.zeros(1, 4), ratio=1, balance=2)
    assert terms["class"].item() == pytest.approx(-math.log(0.75) + math.log(10))
    assert terms["box"].item() == pytest.approx(2 * (0.125 + 2.5))


def test_ssd_loss_divides_by_the_positives_of_the_batch() -> None:
    logits, deltas = torch.zeros(2, 8, 3), torch.ones(2, 8, 4)
    labels = torch.zeros(2, 8, dtype=torch.int64)
    labels[0, 0], labels[1, :2] = 1, 2
    terms = ssd_loss(logits, deltas, labels, torch.zeros(3, 4))
    # 3 positives, 3 + 6 negatives, each ln 3; 4 x 0.5 a positive
    assert terms["class"].item() == pytest.approx(12 * math.log(3) / 3)
    assert terms["box"].item() == pytest.approx(2.0)


def test_ssd_loss_without_an_object_is_0() -> None:
    logits, deltas = torch.randn(2, 8, 3, requires_grad=True), torch.ones(2, 8, 4, requires_grad=True)
    terms = ssd_loss(logits, deltas, torch.zeros(2, 8, dtype=torch.int64), torch.zeros(0, 4))
    assert {k: v.item() for k, v in terms.items()} == {"class": 0, "box": 0}
    torch.stack(list(terms.values())).sum().backward()
    assert logits.grad is not None and not logits.grad.any()


def test_ssd_loss_is_torchvisions() -> None:
    from torchvision.models.detection.ssd import SSD

    generator = torch.Generator().manual_seed(2)
    logits, deltas = torch.randn(2, 60, 5, generator=generator), torch.randn(2, 60, 4, generator=generator)
    labels = torch.zeros(2, 60, dtype=torch.int64)
    labels[0, 5:9], labels[1, 50:52] = 3, 1
    anchors = torch.tensor([[0.0, 0, 10, 10]]).expand(60, 4)

    class Coder:
        """Wants deltas of 0."""

        @staticmethod
        def encode_single(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(boxes)

    class Self:
        box_coder, neg_to_pos_ratio = Coder, 3

    matches = [torch.where(row > 0, row - 1, -1) for row in labels]
    truths = [{"boxes": torch.ones(5, 4), "labels": torch.arange(1, 6)} for _ in range(2)]
    heads = {"bbox_regression": deltas, "cls_logits": logits}
    theirs = SSD.compute_loss(Self, truths, heads, [anchors] * 2, matches)
    ours = ssd_loss(logits, deltas, labels, torch.zeros(6, 4))
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours["class"], theirs["classification"], rtol=1e-4, atol=1e-4)
