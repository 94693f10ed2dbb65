"""The backbone: loaded right (top-1 on real photos), frozen right, fused right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from edgedet.contract.preprocess import preprocess
from edgedet.contract.spec import Input
from edgedet.models import LITE0_MEAN, LITE0_STD
from edgedet.models.backbones import Backbone, imagenet_classifier


def top1(root: Path, mean: tuple[float, float, float], std: tuple[float, float, float]) -> float:
    """Accuracy on imagenet_200 (256 px centre crops), at 224 px."""
    model, spec = imagenet_classifier(), Input("images", 224, 224, mean, std)
    right = total = 0
    rows = [line.split() for line in (root / "labels.txt").read_text().splitlines() if line.strip()]
    with torch.inference_mode():
        for name, label, *_ in rows:
            image = cv2.imread(str(next(root.rglob(name))))
            assert image is not None
            tensor, _ = preprocess(image[16:240, 16:240], spec)
            right += int(model(torch.from_numpy(tensor)).argmax().item() == int(label))
            total += 1
    assert total == 200
    return right / total


def test_top_1_on_real_photos_shows_that_the_weights_are_loaded_right(shared: Path) -> None:
    assert top1(shared / "imagenet_200", LITE0_MEAN, LITE0_STD) >= 0.85


def test_frozen_norms_compute_what_batch_norms_in_eval_mode_compute() -> None:
    torch.manual_seed(0)
    frozen, plain = Backbone(pretrained=True), Backbone(pretrained=True, frozen_norms=False).eval()
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(frozen(x), plain(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())


def test_frozen_stages_do_not_learn() -> None:
    backbone = Backbone(pretrained=False, frozen_stages=2)
    learning = {
        n.split(".")[2] for n, p in backbone.named_parameters() if p.requires_grad and ".blocks." in n
    }
    assert learning == {"2", "3", "4", "5", "6"}
    assert not any(p.requires_grad for p in backbone.body.conv_stem.parameters())
    everything = Backbone(pretrained=False, frozen_stages=0)
    assert all(p.requires_grad for p in everything.parameters())


def test_channels_and_strides() -> None:
    backbone = Backbone((4, 8, 16, 32), pretrained=False).eval()
    features = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert backbone.channels == (24, 40, 112, 320)
    np.testing.assert_equal(backbone.strides, (4, 8, 16, 32))
