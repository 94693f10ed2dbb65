"""Images with exactly one object: which they are, and that augmentation leaves it whole and alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.contract.errors import EmptyDataset
from edgedet.data import Sample, open_dataset
from edgedet.data.one_object import with_one_object


def test_only_images_with_one_object_to_be_found_are_kept_and_the_rest_is_said(voc, obj) -> None:
    voc.add("one", obj("cat", 5, 5, 20, 20))
    voc.add("two", obj("cat", 5, 5, 20, 20), obj("dog", 30, 5, 50, 20))
    voc.add("hard", obj("cat", 5, 5, 20, 20, difficult=1))
    voc.add("beside", obj("cat", 5, 5, 20, 20), obj("dog", 30, 5, 50, 20, difficult=1))
    voc.add("none")
    kept = with_one_object(open_dataset(f"voc:{voc.root}", "train"))
    assert [t.id for t in kept.truths] == ["one"]
    assert kept.notes[-1] == (
        "voc:VOC2007 train: 4 of 5 images left out, because they have not exactly one object to be found"
        " (1 have none)"
    )


def test_a_set_of_such_images_stays_as_it_is(voc, obj) -> None:
    voc.add("one", obj("cat", 5, 5, 20, 20))
    data = open_dataset(f"voc:{voc.root}", "train")
    assert with_one_object(data) is data


def test_a_set_without_such_an_image_is_refused(voc, obj) -> None:
    voc.add("two", obj("cat", 5, 5, 20, 20), obj("dog", 30, 5, 50, 20))
    with pytest.raises(EmptyDataset, match=r"has 1 images, none with exactly one object\. .*a detector"):
        with_one_object(open_dataset(f"voc:{voc.root}", "train"))


def test_voc_has_as_many_as_were_counted(shared) -> None:
    for split, count in (("train", 1620), ("val", 245)):
        assert len(with_one_object(open_dataset(f"voc:{shared / 'VOCdevkit/VOC2007'}", split))) == count


def test_augmentation_keeps_the_object_whole_and_its_box_on_it() -> None:
    """A white rectangle on black, wherever it goes: the box is that of the white pixels."""
    torch = pytest.importorskip("torch", reason="needs torch (extra train)")
    from edgedet.data.augment import apply
    from edgedet.data.augment_localisation import localisation_transform

    rng = np.random.default_rng(0)
    transform = localisation_transform((160, 192), train=True, fill=(0, 0, 0))
    areas, sides = [], set()
    for seed in range(60):
        image = np.zeros((90, 120, 3), np.uint8)
        x0, y0 = int(rng.integers(0, 80)), int(rng.integers(0, 60))
        x1, y1 = int(rng.integers(x0 + 12, 121)), int(rng.integers(y0 + 12, 91))
        image[y0:y1, x0:x1] = 255
        box = np.array([[x0, y0, x1, y1]], np.float32)
        torch.manual_seed(seed)
        out, targets = apply(transform, Sample("a", image, box, np.array([3]), np.array([False])))
        assert out.shape == (3, 160, 192)
        assert (targets.labels.tolist(), targets.ignore.tolist()) == ([3], [False])
        bright = out.amax(dim=0).float()
        ys, xs = torch.nonzero(bright > bright.max() / 2, as_tuple=True)
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(targets.boxes[0], [int(v) for v in seen], atol=1.5)
        areas.append(float((targets.boxes[0, 2] - targets.boxes[0, 0]) / (x1 - x0)))
        sides.add(bool(targets.boxes[0, 0] / 192 > 0.4) != bool(x0 / 120 > 0.4))
    assert min(areas) < 1.2 < 1.8 < max(areas)  # it is shown smaller and larger than a stretch alone would
    assert sides == {True, False}
