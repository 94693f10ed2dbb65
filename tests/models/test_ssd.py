"""SSD: what it is made of by the lecture's formulas, its targets by hand, and that its heads are in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedet import weights
from edgedet.contract.boxes import apply_deltas, pairwise_iou
from edgedet.contract.decode import anchors as decode_anchors
from edgedet.contract.errors import TrainingError, UnknownName
from edgedet.contract.targets import Targets
from edgedet.models import make_spec
from edgedet.models.ssd import VARIANCES, Ssd
from edgedet.training.checkpoint import start_from

SIZE = (128, 128)


def made(neck: str = "none", classes: int = 3) -> Ssd:
    torch.manual_seed(0)
    return Ssd(classes, neck=neck, size=SIZE, width=32, pretrained=False)


def target(boxes: list[list[float]], labels: list[int], ignore: list[bool] | None = None) -> Targets:
    skip = ignore or [False] * len(boxes)
    return Targets(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels).long(), torch.tensor(skip).bool())


@pytest.mark.parametrize(
    ("neck", "scales", "first"),
    [("none", (0.15, 0.3375, 0.525, 0.7125, 0.9), 16), ("fpn", (0.1, 0.26, 0.42, 0.58, 0.74, 0.9), 8)],
)
def test_default_boxes_are_the_lectures(neck: str, scales: tuple[float, ...], first: int) -> None:
    model = made(neck)
    anchors = model.anchors(SIZE)
    start, stride = 0, first
    for s, following in zip(scales, [*scales[1:], 2 * scales[-1] - scales[-2]], strict=True):
        n = math.ceil(128 / stride)
        level = anchors[start : start + n * n * 6].reshape(n, n, 6, 4)
        sides = level[0, 0, :, 2:] - level[0, 0, :, :2]
        expected = [[s * math.sqrt(r), s / math.sqrt(r)] for r in (1, 2, 3, 1 / 2, 1 / 3)]
        expected.append([math.sqrt(s * following)] * 2)
        np.testing.assert_allclose(sides, 128 * np.array(expected), rtol=1e-5)
        centres = (level[..., :2] + level[..., 2:]) / 2
        np.testing.assert_allclose(centres[0, :, 0, 0], [(j + 0.5) * 128 / n for j in range(n)], atol=1e-4)
        np.testing.assert_allclose(centres[:, 0, 0, 1], [(i + 0.5) * 128 / n for i in range(n)], atol=1e-4)
        start, stride = start + n * n * 6, stride * 2
    assert start == len(anchors)


@pytest.mark.parametrize("neck", ["none", "fpn"])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_both_necks_give_a_row_for_each_default_box(neck: str, size: tuple[int, int]) -> None:
    model = made(neck).eval()
    spec = make_spec("ssd", model, ("a", "b", "c"), size=size)
    heads = model(torch.zeros(2, 3, *size))
    for out in spec.outputs:
        assert tuple(heads[out.role].shape) == (2, *out.shape[1:])
    assert heads["deltas"].shape[1] == len(model.anchors(size))


def test_another_neck_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"no neck is named 'fpm'\. Did you mean 'fpn'"):
        made("fpm")


class Fixed(nn.Module):
    """Maps whose every value says where it came from: 1e4 level + 100 row + column, and the channel apart."""

    def __init__(self, level: int, channels: int) -> None:
        super().__init__()
        self.level, self.out_channels = level, channels

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        where = 1e4 * self.level + 100 * torch.arange(rows)[:, None] + torch.arange(columns)
        return where + torch.arange(self.out_channels).view(1, -1, 1, 1) / 1024


def test_every_row_is_that_of_its_default_box() -> None:
    model = made().eval()
    for i, head in enumerate(model.heads):
        head.logits, head.deltas = Fixed(i, 6 * 4), Fixed(i, 6 * 4)  # type: ignore[assignment]
    size = (128, 160)
    heads = model(torch.zeros(1, 3, *size))
    anchors = torch.from_numpy(model.anchors(size))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    start = 0
    for i, stride in enumerate(model.strides):
        rows, columns = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        for row, column, k in ((0, 0, 0), (rows - 1, columns - 1, 5), (rows - 1, 0, 3)):
            index = start + (row * columns + column) * 6 + k
            expected = 1e4 * i + 100 * row + column + (torch.arange(4) + 4 * k) / 1024
            torch.testing.assert_close(heads["deltas"][0, index], expected, rtol=0, atol=2e-3)
            torch.testing.assert_close(heads["class_logits"][0, index], expected, rtol=0, atol=2e-3)
            wanted = [(column + 0.5) * size[1] / columns, (row + 0.5) * size[0] / rows]
            torch.testing.assert_close(centres[index], torch.tensor(wanted))
        start += rows * columns * 6


def test_it_starts_with_three_of_four_default_boxes_taken_for_background() -> None:
    heads = made("fpn", classes=20).eval()(torch.randn(1, 3, *SIZE))
    background = heads["class_logits"].softmax(-1)[..., 0]
    torch.testing.assert_close(background, torch.full_like(background, 0.75), rtol=0, atol=0.1)
    assert heads["deltas"].abs().max() < 1


def test_a_network_that_says_the_truth_has_no_loss_and_decodes_to_it() -> None:
    model = made()
    anchors = torch.from_numpy(model.anchors(SIZE))
    box = torch.tensor([20.0, 30, 61, 80])
    overlap = pairwise_iou(anchors, box[None])[:, 0]
    positive = overlap >= 0.5
    assert positive.sum() > 1
    logits = torch.zeros(1, len(anchors), 4)
    logits[0, :, 0] = 50
    logits[0, positive, 0], logits[0, positive, 3] = 0, 50
    centre, half = (box[:2] + box[2:]) / 2, (anchors[:, 2:] - anchors[:, :2])
    shift = (centre - (anchors[:, :2] + anchors[:, 2:]) / 2) / half / 0.1
    deltas = torch.cat([shift, torch.log((box[2:] - box[:2]) / half) / 0.2], dim=1)[None]
    heads = {"class_logits": logits, "deltas": deltas}
    terms = model.loss(heads, [target([box.tolist()], [2])])
    assert terms["class"].item() == pytest.approx(0, abs=1e-6)
    assert terms["box"].item() == pytest.approx(0, abs=1e-6)
    found = model.decode(heads, SIZE)
    assert found["scores"][0, positive].argmax(-1).unique().tolist() == [2]
    torch.testing.assert_close(
        found["boxes"][0, positive], box.expand(int(positive.sum()), 4), rtol=1e-4, atol=1e-3
    )


def test_the_loss_by_hand() -> None:
    model = made()
    anchors = model.anchors(SIZE)
    index = 3 * 6  # one default box of ratio 1 becomes the object itself
    truth = target([anchors[index].tolist()], [1])
    matched = pairwise_iou(torch.from_numpy(anchors), truth.boxes)[:, 0] >= 0.5
    n = int(matched.sum())
    logits, deltas = torch.zeros(1, len(anchors), 4), torch.zeros(1, len(anchors), 4)
    terms = model.loss({"class_logits": logits, "deltas": deltas}, [truth])
    assert terms["class"].item() == pytest.approx(4 * math.log(4), rel=1e-5)
    # what the default boxes that share it are off by, in the lecture's t, over the variances
    wanted = 0.0
    for a in anchors[matched.numpy()].astype(float):
        (px, py), (pw, ph) = (a[:2] + a[2:]) / 2, a[2:] - a[:2]
        g = anchors[index].astype(float)
        (gx, gy), (gw, gh) = (g[:2] + g[2:]) / 2, g[2:] - g[:2]
        t = [(gx - px) / pw / 0.1, (gy - py) / ph / 0.1, math.log(gw / pw) / 0.2, math.log(gh / ph) / 0.2]
        wanted += sum(0.5 * x * x if abs(x) < 1 else abs(x) - 0.5 for x in t)
    assert n > 1
    assert terms["box"].item() == pytest.approx(wanted / n, rel=1e-4)


def test_an_ignored_object_is_neither_found_nor_punished() -> None:
    model = made()
    anchors = torch.from_numpy(model.anchors(SIZE))
    box, other = [16.0, 16, 56, 56], [80.0, 80, 120, 120]
    truth = target([box, other], [0, 0], [True, False])
    logits = torch.zeros(1, len(anchors), 4, requires_grad=True)
    near = pairwise_iou(anchors, torch.tensor([box]))[:, 0] >= 0.5
    with torch.no_grad():
        logits[0, near, 1] = 9  # the network finds it
    terms = model.loss({"class_logits": logits, "deltas": torch.zeros(1, len(anchors), 4)}, [truth])
    terms["class"].backward()
    assert logits.grad is not None
    assert not logits.grad[0, near].any()
    assert logits.grad.any()


def test_the_loss_knows_the_size_of_its_input() -> None:
    model = made().train()
    x = torch.randn(2, 3, 96, 160)
    terms = model.training_loss(x, [target([[100.0, 10, 150, 60]], [1])] * 2)
    expected = model.loss(model(x), [target([[100.0, 10, 150, 60]], [1])] * 2, (96, 160))
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)


def test_one_image_is_too_few_where_the_last_level_has_one_position() -> None:
    model = made().train()
    one = [target([[10.0, 10, 50, 60]], [1])]
    with pytest.raises(TrainingError, match="one image a process at 128x256"):
        model.training_loss(torch.zeros(1, 3, 128, 256), one)
    model.training_loss(torch.zeros(1, 3, 128, 288), one)


@pytest.mark.parametrize("neck", ["none", "fpn"])
def test_every_parameter_that_is_trained_has_a_gradient(neck: str) -> None:
    model = made(neck).train()
    for truth in ([target([[10.0, 10, 50, 60]], [1])] * 2, [target([], [])] * 2):
        model.zero_grad(set_to_none=True)
        torch.stack(list(model.training_loss(torch.randn(2, 3, *SIZE), truth).values())).sum().backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("neck", ["none", "fpn"])
def test_it_starts_from_the_shipped_yolos_backbone(neck: str) -> None:
    fresh = start_from(made(neck, classes=20), weights.find("yolo"))
    assert fresh and not [n for n in fresh if n.startswith("backbone.")]


@pytest.mark.parametrize("neck", ["none", "fpn"])
def test_the_spec_decodes_as_the_model_does(neck: str) -> None:
    model = made(neck).eval()
    size = (96, 160)
    spec = make_spec("ssd", model, ("a", "b", "c"), size=size)
    generator = torch.Generator().manual_seed(3)
    heads = {o.role: 2 * torch.randn(2, *o.shape[1:], generator=generator) for o in spec.outputs}  # type: ignore[arg-type]
    theirs = model.decode(heads, size)
    arrays = {role: head.numpy() for role, head in heads.items()}
    boxes, scores = decode_anchors(arrays, size, **spec.decode.parameters)
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(boxes, theirs["boxes"].numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, theirs["scores"].numpy(), atol=1e-6)
    by_hand = apply_deltas(arrays["deltas"], model.anchors(size), VARIANCES)
    np.testing.assert_allclose(boxes, by_hand, rtol=1e-5, atol=1e-4)
