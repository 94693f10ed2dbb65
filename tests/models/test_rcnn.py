"""R-CNN: crops against torchvision and by hand, what an SVM's examples are, its losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision import ops

from edgedet.contract.errors import UsageError
from edgedet.contract.targets import Targets
from edgedet.models import build, make_spec
from edgedet.models.crops import crops, with_context
from edgedet.models.rcnn import Rcnn

both_forms = pytest.mark.parametrize("operators", [False, True], ids=["plain", "operators"])
CLASSES = ("cat", "dog", "cow")
BOX = [10.0, 10.0, 50.0, 50.0]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**options: object) -> Rcnn:
    torch.manual_seed(0)
    found = build("rcnn", 3, pretrained=False, proposals=6, rows=3, side=64, **options)
    assert isinstance(found, Rcnn)
    return found.eval()


def truth(boxes: list[list[float]], labels: list[int], **more: Tensor) -> Targets:
    ignore = more.pop("ignore", torch.zeros(len(boxes), dtype=torch.bool))
    return Targets(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels), ignore, **more)


@both_forms
@pytest.mark.parametrize("samples", [1, 2])
def test_crops_are_torchvisions_roi_align_of_the_image(operators: bool, samples: int) -> None:
    images, boxes = seeded(2, 3, 60, 80), torch.rand(2, 30, 4, generator=torch.Generator().manual_seed(1))
    boxes = torch.cat([boxes[..., :2] * 50, boxes[..., :2] * 50 + 1 + boxes[..., 2:] * 60], dim=-1)
    boxes[:, 0] = 0  # no region
    found = crops(images, boxes, 24, samples=samples, operators=operators)
    expected = ops.roi_align(images, list(with_context(boxes)), 24, 1.0, samples, aligned=True)
    assert found.shape == (60, 3, 24, 24)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@both_forms
def test_a_crop_of_227_pixels_shows_16_around_its_region(operators: bool) -> None:
    """195 pixels are neither enlarged nor shrunk, so the crop is a window of the image."""
    image = seeded(1, 3, 300, 310)
    found = crops(image, torch.tensor([[[50.0, 40.0, 245.0, 235.0]]]), 227, samples=1, operators=operators)
    torch.testing.assert_close(found[0], image[0, :, 24:251, 34:261], rtol=0, atol=1e-3)


@both_forms
def test_outside_the_image_is_the_mean_colour(operators: bool) -> None:
    image = torch.ones(1, 1, 195, 195)
    found = crops(image, torch.tensor([[[0.0, 0.0, 195.0, 195.0]]]), 227, samples=1, operators=operators)[
        0, 0
    ]
    assert (found[:15] == 0).all() and (found[:, :15] == 0).all() and (found[-15:] == 0).all()
    torch.testing.assert_close(found[16:211, 16:211], torch.ones(195, 195))


def test_a_tall_region_is_warped_to_a_square() -> None:
    """Rows count from 0 to 299: those of a region of 195 rows and 39 columns are all there, one by one."""
    image = torch.arange(300.0)[None, None, :, None].expand(1, 1, 300, 300)
    found = crops(image, torch.tensor([[[100.0, 50.0, 139.0, 245.0]]]), 227, samples=1)[0, 0]
    torch.testing.assert_close(found[:, 0], torch.arange(34.0, 261.0), rtol=0, atol=1e-3)
    assert (found.max(dim=1).values - found.min(dim=1).values).max() < 1e-3


def test_regions_are_looked_at_one_by_one() -> None:
    """Six at once, or three and three: the same, whatever stands beside a region."""
    model, images = small(), seeded(2, 3, 64, 96)
    boxes = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(3)) * 20
    boxes[..., 2:] += 30
    torch.nn.init.normal_(model.svm.weight)
    torch.nn.init.normal_(model.deltas.weight)
    whole = model(images, boxes)
    parts = [model(images, boxes[:, i : i + 3]) for i in (0, 3)]
    for name, value in whole.items():
        both = torch.cat([part[name] for part in parts], dim=1)
        torch.testing.assert_close(both, value, rtol=1e-4, atol=1e-4)
    model.operators = True
    for name, value in model(images, boxes).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-3)


def test_rows_without_a_region_score_nothing() -> None:
    model = small()
    torch.nn.init.constant_(model.svm.bias, 3.0)
    boxes = torch.tensor([[BOX, [0.0] * 4, [7.0, 7.0, 7.0, 30.0]]])
    heads = model(seeded(1, 3, 64, 64), boxes)
    assert heads["objectness"].tolist() == [[1, 0, 0]]
    found = model.decode(heads, (64, 64))
    torch.testing.assert_close(found["scores"][0, 0], torch.full((3,), 1 / (1 + math.exp(-3))))
    assert (found["scores"][0, 1:] == 0).all()
    torch.testing.assert_close(found["boxes"][0, 0], torch.tensor([BOX] * 3))  # no deltas yet


def test_svms_and_regression_are_not_trained_by_gradients() -> None:
    model = small()
    assert not any(p.requires_grad for layer in (model.svm, model.deltas) for p in layer.parameters())


def test_fine_tuning_by_hand() -> None:
    """Two regions show the dog (one is its own box), three show background: log-softmax of the bias alone."""
    model = small(sampled=8).train()
    torch.nn.init.zeros_(model.class_logits.weight)
    with torch.no_grad():
        model.class_logits.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    far = [[60.0 + i, 60.0, 90.0, 90.0] for i in range(3)]
    proposals = torch.tensor([[12.0, 10.0, 50.0, 50.0], *far, [0.0] * 4, [0.0] * 4])
    target = truth([BOX], [1], proposals=proposals)
    total = math.log(1 + math.e + math.e**2 + math.e**3)
    expected = (2 * (total - 2) + 3 * total) / 5
    loss = model.training_loss(seeded(1, 3, 96, 96), [target])
    assert [*loss] == ["class"]
    assert loss["class"].item() == pytest.approx(expected, rel=1e-5)


def test_a_quarter_of_what_is_sampled_shows_objects() -> None:
    model = small(sampled=8).train()
    torch.nn.init.zeros_(model.class_logits.weight)
    with torch.no_grad():
        model.class_logits.bias.copy_(torch.tensor([0.0, 50.0, 0.0, 0.0]))
    near = [[10.0, 10.0, 50.0, 46.0 + i] for i in range(6)]
    far = [[60.0 + i, 60.0, 90.0, 90.0] for i in range(6)]
    target = truth([BOX], [0], proposals=torch.tensor(near + far))
    # objects cost nothing, background 50
    assert model.training_loss(seeded(1, 3, 96, 96), [target])["class"].item() == pytest.approx(50 * 6 / 8)


OVERLAPS = {0.9: [10.0, 10.0, 50.0, 46.0], 0.4: [10.0, 10.0, 50.0, 26.0], 0.2: [10.0, 10.0, 50.0, 18.0]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 0, 0, -1]),  # the lecture: positive from 0.3 on
        ({"svm_positive": 1.0}, [0, -2, -2, -1]),  # the paper: the object's own box alone
        ({"svm_positive": 0.5, "svm_negative": 0.15}, [0, 0, -2, -2]),
    ],
)
def test_what_an_svm_learns_from(options: dict[str, float], expected: list[int]) -> None:
    model = small(**options)
    boxes = torch.tensor([BOX, *OVERLAPS.values()])
    target = truth([[0.0, 0.0, 5.0, 5.0], BOX, BOX], [0, 1, 2])
    objects, found = model.of_class(boxes, target, 1, model.svm_positive, model.svm_negative)
    assert objects.tolist() == [BOX]
    assert found.tolist() == expected
    # an object of another class is no reason not to be a negative
    assert model.of_class(boxes, target, 0, 0.3, 0.3)[1].tolist() == [-1] * 4


def test_difficult_objects_are_neither_positive_nor_negative() -> None:
    target = truth([BOX], [1], ignore=torch.tensor([True]))
    boxes = torch.tensor([BOX, [60.0, 60.0, 90.0, 90.0]])
    assert Rcnn.of_class(boxes, target, 1, 0.3, 0.3)[1].tolist() == [-2, -1]


def test_what_svms_and_regression_minimise_by_hand() -> None:
    model = small()
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 46.0], [60.0, 60.0, 90.0, 90.0], [0.0] * 4]])
    margins = torch.tensor([[[0.5, -3.0, 0.25], [-0.5, 2.0, -1.0], [9.0, 9.0, 9.0]]])
    heads = {"proposals": boxes, "margins": margins, "deltas": torch.zeros(1, 3, 12)}
    loss = model.loss(heads, [truth([BOX], [0])])
    # region 0: class 0 is there: 1 - 0.5; 1: below -1, nothing; 2: 1.25. Region 1: 0.5, 3, 0
    assert loss["svm"].item() == pytest.approx((0.5 + 1.25 + 0.5 + 3) / 2)
    # the pair's object is 40 high, the region 36, so its centre lies 2 of 36 lower
    assert loss["box"].item() == pytest.approx((2 / 36) ** 2 + math.log(40 / 36) ** 2, rel=1e-5)


def test_the_spec_says_how_many_regions_a_run_takes() -> None:
    spec = make_spec("rcnn", small(), CLASSES)
    assert spec.proposals is not None
    assert (spec.proposals.count, spec.proposals.rows) == (6, 3)
    assert [t.shape for t in spec.extra_inputs] == [(None, 3, 4)]
    assert spec.output("margins").shape == (None, 3, 3)
    assert spec.thresholds.score == 0.5


@pytest.mark.parametrize("options", [{"rows": 4}, {"svm_positive": 0.2}, {"box_overlap": 0}])
def test_numbers_that_cannot_be_meant_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="rcnn cannot be built"):
        build("rcnn", 3, pretrained=False, **({"proposals": 6, "rows": 3} | options))
