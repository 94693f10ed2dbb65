"""A mask for each object: read from files of numbers, moved with its image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import DataError, UnknownName
from edgedet.data import Sample, open_dataset

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from torchvision.transforms import v2  # noqa: E402

from edgedet.data.augment import OVERLAPS, DropThin, ObjectCrop, Stretch, apply  # noqa: E402


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Penn-Fudan's layout: persons 1 and 3; 255 belongs to none."""
    for folder in ("JPEGImages", "PedMasks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:18], mask[8:30, 40:50], mask[30:34, 2:6] = 1, 3, 255
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.png"), np.full((40, 60, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / "PedMasks" / f"{name}_mask.png"), mask)
    (tmp_path / "train.txt").write_text("a\n")
    return tmp_path


def test_numbers_become_boxes_and_masks(people: Path) -> None:
    data = open_dataset(f"instances:{people}", "train")
    assert (len(data), data.classes) == (1, ("person",))
    sample = data.load(0, masks=True)
    assert sample.boxes.tolist() == [[10, 5, 18, 20], [40, 8, 50, 30]]
    assert sample.masks is not None
    assert sample.masks.dtype == bool
    assert sample.masks.sum(axis=(1, 2)).tolist() == [8 * 15, 10 * 22]
    assert data.load(0).masks is None
    assert len(open_dataset(f"instances:{people}", "all")) == 2


def test_the_fingerprint_is_of_the_masks_too(people: Path, tmp_path: Path) -> None:
    """Pixels inside the same box are the mask's alone."""
    one = open_dataset(f"instances:{people}", "train").fingerprint()
    moved = shutil.copytree(people, tmp_path / "moved")
    assert open_dataset(f"instances:{moved}", "train").fingerprint() == one
    file = moved / "PedMasks" / "a_mask.png"
    mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    mask[10, 12] = 0
    cv2.imwrite(str(file), mask)
    assert open_dataset(f"instances:{moved}", "train").truths[0].boxes.tolist() == [
        [10, 5, 18, 20],
        [40, 8, 50, 30],
    ]
    assert open_dataset(f"instances:{moved}", "train").fingerprint() != one


def test_the_fingerprint_of_coco_s_segmentations(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))

    def fingerprint(segmentation: object) -> str:
        raw = {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 1,
                    "bbox": [10, 10, 10, 10],
                    "segmentation": segmentation,
                }
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(raw))
        return open_dataset(f"coco:{tmp_path / 'a.json'}").fingerprint()

    square, triangle = [10, 10, 20, 10, 20, 20, 10, 20], [10, 10, 20, 10, 20, 20]
    runs = {"size": [40, 60], "counts": [0, 100, 2300]}
    found = [fingerprint(s) for s in ([square], [triangle], [triangle, triangle], runs, None)]
    assert len(set(found)) == 5
    assert fingerprint([square]) == found[0]


def test_what_is_no_such_folder_is_said(people: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        open_dataset(f"instances:{people}", "test")
    with pytest.raises(DataError, match="no masks of objects"):
        open_dataset(f"instances:{people / 'PedMasks'}", "train")


def test_masks_move_with_their_pixels() -> None:
    """Exactly through crop and flip; stretched without a shift by half a pixel."""
    image = np.full((90, 140, 3), 30, np.uint8)
    boxes = np.array([[10, 12, 50, 60], [80, 30, 120, 80]], np.float32)
    for box, grey in zip(boxes.astype(int), (110, 200), strict=True):
        image[box[1] : box[3], box[0] : box[2]] = grey
    masks = np.stack([image[..., 0] == 110, image[..., 0] == 200])
    sample = Sample("a", image, boxes, np.arange(2), np.zeros(2, bool), None, masks)
    steps = v2.Compose([ObjectCrop(0.3, OVERLAPS, p=1.0), v2.RandomHorizontalFlip(), DropThin(2.0)])
    for seed in range(30):
        torch.manual_seed(seed)
        moved, targets = apply(steps, sample)
        assert targets.masks.shape == (len(targets.boxes), *moved.shape[1:])
        for label, mask in zip(targets.labels.tolist(), targets.masks, strict=True):
            assert torch.equal(mask, moved[0] == (110, 200)[label])
    _, targets = apply(v2.Compose([Stretch((180, 70))]), sample)
    for mask, box in zip(targets.masks, targets.boxes.tolist(), strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] == box
    empty = Sample("a", image, boxes[:0], np.zeros(0, np.int64), np.zeros(0, bool), None, masks[:0])
    assert apply(v2.Compose([Stretch((32, 48)), DropThin(2.0)]), empty)[1].masks.shape == (0, 32, 48)


def test_real_instances(shared: Path) -> None:
    """VOC's objects: as many as its annotations say, nearly where they say."""
    voc = shared / "VOCdevkit" / "VOC2007"
    data = open_dataset(f"instances:{voc}", "val")
    assert len(data) == 213
    assert len(open_dataset(f"instances:{shared / 'pennfudan'}", "val")) == 50
    annotated = {t.id: t for t in open_dataset(f"voc:{voc}", "all").truths}
    near = []
    for index in range(0, 213, 10):
        truth, theirs = data.truths[index], annotated[data.truths[index].id]
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            same = theirs.boxes[theirs.labels == label]
            near.append(len(same) > 0 and bool(np.abs(same - box).max(axis=1).min() < 12))
        masks = data.masks(index)
        assert masks.shape == (len(truth.boxes), *truth.size)  # type: ignore[misc]
    assert np.mean(near) > 0.9  # masks of objects that others cut in two differ from the boxes drawn
