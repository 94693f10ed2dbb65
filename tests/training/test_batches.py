"""Class maps travel through workers and batches; what cannot be used is replaced and said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import EmptyDataset
from edgedet.data import open_dataset

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from edgedet.data.augment import segmentation_transform  # noqa: E402
from edgedet.training.batches import Loader, Order, Samples  # noqa: E402


@pytest.fixture
def samples(masks: Path) -> Samples:
    transform = segmentation_transform((16, 24), train=False, fill=(0, 0, 0))
    return Samples(open_dataset(f"masks:{masks}", "all"), transform, seed=0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_with_its_map(samples: Samples, workers: int) -> None:
    seen = []
    for images, targets, problems in Loader(samples, Order(6, 2, seed=0), workers):
        assert images.shape == (2, 3, 16, 24)
        assert not problems
        for image, target in zip(images, targets, strict=True):
            assert target.class_map is not None
            assert (target.class_map.shape, target.class_map.dtype) == ((16, 24), torch.uint8)
            number = int(target.class_map[0, 0])
            assert (target.class_map == number).all()
            assert (image == 40 * number).all()
            seen.append(number)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.full((20, 30), 255, np.uint8), "2.png: all void"),
        (np.full((20, 30), 6, np.uint8), "2.png: label outside the classes"),
        (np.zeros((30, 20), np.uint8), "2.png: mask of another size"),
        (np.tile(np.uint8([1, 2, 3]), (20, 30, 1)), "2.png: mask of colours"),
        (None, "2.png: unreadable mask"),
    ],
)
def test_a_mask_that_cannot_be_used_is_replaced_by_the_next_and_said(
    samples: Samples, masks: Path, mask: np.ndarray | None, problem: str
) -> None:
    file = masks / "masks" / "2.png"
    if mask is None:
        file.write_bytes(b"")
    else:
        cv2.imwrite(str(file), mask)
    image, targets, said = samples[0, 2]
    assert [problem in str(p) for p in said] == [True]
    assert targets.class_map is not None
    assert (targets.class_map == 3).all()
    assert (image == 120).all()


def test_no_mask_can_be_used(samples: Samples, masks: Path) -> None:
    for file in (masks / "masks").iterdir():
        cv2.imwrite(str(file), np.full((20, 30), 255, np.uint8))
    with pytest.raises(EmptyDataset, match=r"No image of masks:.* can be used; the first error: .*all void"):
        samples[0, 1]
