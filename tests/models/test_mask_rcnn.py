"""The mask head, its targets and its loss: by hand, and against torchvision where the form is the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from edgedet.contract.errors import DataError
from edgedet.contract.results import Instances
from edgedet.contract.spec import Thresholds
from edgedet.contract.targets import Targets
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.models import make_spec
from edgedet.models.mask_rcnn import MaskHead, MaskRcnn, mask_loss, mask_targets


@pytest.fixture(scope="module")
def model() -> MaskRcnn:
    torch.manual_seed(0)
    return MaskRcnn(3, width=16, hidden=32, proposals=16, sampled=8, pretrained=False)


def target(masks: bool = True) -> Targets:
    whole = torch.zeros(1, 96, 96, dtype=torch.bool)
    whole[0, 10:70, 10:60] = True
    return Targets(
        torch.tensor([[10.0, 10, 60, 70]]),
        torch.tensor([1]),
        torch.tensor([False]),
        None,
        whole if masks else None,
    )


def test_head_equals_torchvisions_with_the_same_weights():
    torch.manual_seed(0)
    ours = MaskHead(8, 5)
    theirs = torch.nn.Sequential(MaskRCNNHeads(8, (8, 8, 8, 8), 1), MaskRCNNPredictor(8, 8, 5))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(3, 8, 14, 14) * 0.2  # small: ReLU6 and ReLU are the same there
    assert float(ours.convs(x).detach().max()) < 6
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert ours(x).shape == (3, 5, 28, 28)


def test_loss_by_hand_is_of_the_true_class_alone():
    logits = torch.full((1, 3, 2, 2, 2), 50.0)  # nonsense where it must not be looked at
    logits[0, 0, 1] = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])
    labels = torch.tensor([[2, 0, -1]])  # class 1, background, a row that is not used
    wanted = torch.zeros(1, 3, 2, 2)
    wanted[0, 0, :, 0] = 1
    # sigmoid: 1/2, 1/2; 3/4, 3/4: -log 1/2, -log 1/2, -log 3/4, -log 1/4
    expected = (2 * math.log(2) + math.log(4 / 3) + math.log(4)) / 4
    assert float(mask_loss(logits, labels, wanted)) == pytest.approx(expected, rel=1e-6)


def test_no_object_no_loss_but_a_gradient():
    logits = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.tensor([[0, -1]]), torch.zeros(1, 2, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_targets_by_hand():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :, 8:] = True  # the right half
    masks[1, 4:8] = True
    boxes = torch.tensor([[4.0, 4, 12, 12], [0, 0, 16, 16], [0, 0, 8, 8]])
    found = mask_targets(masks, boxes, torch.tensor([0, 1, -1]), 4)
    assert found[0].tolist() == [[0, 0, 1, 1]] * 4
    assert found[1].tolist() == [[0] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert not found[2].any()


def test_training_loss_has_the_masks_term_and_reaches_the_head(model):
    model.train()
    torch.manual_seed(1)
    losses = model.training_loss(torch.randn(2, 3, 96, 96), [target(), target()])
    assert list(losses) == ["rpn_class", "rpn_box", "class", "box", "mask"]
    losses["mask"].backward()
    assert model.mask_head.mask_logits.weight.grad[1].any(), "the object's class"
    assert not model.mask_head.mask_logits.weight.grad[0].any(), "another class"
    model.zero_grad()


def test_data_without_masks_is_refused(model):
    with pytest.raises(DataError, match="instance masks"):
        model.training_loss(torch.randn(1, 3, 96, 96), [target(masks=False)])


def test_instances_of_an_image(model):
    """The stage sees what NMS kept: the masks of the boxes themselves."""
    spec = make_spec("mask-rcnn", model, ("a", "b", "c"), size=(96, 96))
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    found = torch_under_test(model, spec, thresholds=Thresholds(score=0.0, max_detections=20))(image)
    assert isinstance(found, Instances) and 0 < len(found) <= 20
    assert found.masks.shape == (len(found), 28, 28)
    from edgedet.contract.preprocess import Preprocessor

    row = np.zeros((1, 3, 96, 96), np.float32)
    Preprocessor(spec.input)(image, row[0])
    model.eval()
    with torch.no_grad():
        levels = model.neck(model.backbone(torch.from_numpy(row)))
        boxes = torch.from_numpy(found.detections.boxes)[None]
        want = model.masks(levels, boxes, operators=True)[0].sigmoid().numpy()
    for i, label in enumerate(found.detections.labels):
        np.testing.assert_allclose(found.masks[i], want[i, label], atol=1e-4)
