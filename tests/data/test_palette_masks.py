"""PNG files whose pixels are indices: palettes of 1 to 8 bits, and PASCAL VOC's SegmentationClass."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import DataError, EmptyDataset, UnknownName
from edgedet.contract.image_files import read_stored
from edgedet.data import open_dataset


def palette_png(path: Path, labels: np.ndarray, bits: int = 8, transparency: bytes | None = None) -> Path:
    """The labels as a palette PNG of 1, 2, 4 or 8 bits whose colours say nothing of the indices."""
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow to write a palette PNG")
    picture = image_module.fromarray(labels).convert("L")
    indexed = image_module.frombytes("P", picture.size, picture.tobytes())
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    indexed.putpalette(colours.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"transparency": transparency} if transparency is not None else {}
    indexed.save(path, bits=bits, **extra)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [None, bytes([0, 255])])
def test_palette_indices_are_read_not_colours(tmp_path, bits, transparency):
    labels = np.random.default_rng(bits).integers(0, 2**bits, (19, 31), np.uint8)
    labels[0, 0] = 2**bits - 1
    file = palette_png(tmp_path / "p.png", labels, bits, transparency)
    header = file.read_bytes()[24:26]
    assert header == bytes([bits, 3])  # it is what the test wants
    assert np.array_equal(read_stored(file), labels)


def test_grey_is_read_as_its_level(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow to write one bit per pixel")
    black = np.random.default_rng(0).random((19, 31)) < 0.5
    image_module.fromarray(black).save(tmp_path / "bits.png")
    assert (tmp_path / "bits.png").read_bytes()[24:26] == bytes([1, 0])
    assert np.array_equal(read_stored(tmp_path / "bits.png"), black * np.uint8(255))
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert cv2.imwrite(str(tmp_path / "grey.png"), labels)
    assert np.array_equal(read_stored(tmp_path / "grey.png"), labels)


# -- VOC's SegmentationClass


@pytest.fixture
def segmented(voc):
    """A VOC folder whose `add_mask` writes an image's palette mask and lists it."""

    def add_mask(name: str, labels: np.ndarray, split: str = "train") -> None:
        palette_png(voc.root / "SegmentationClass" / f"{name}.png", labels)
        lists = voc.root / "ImageSets" / "Segmentation"
        lists.mkdir(exist_ok=True)
        with (lists / f"{split}.txt").open("a") as f:
            f.write(f"{name}\n")

    voc.add_mask = add_mask
    return voc


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_voc_palette_masks(segmented, obj, levels):
    segmented.add("a", obj("dog", 2, 2, 9, 9))
    segmented.add("b", obj("dog", 2, 2, 9, 9))
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 15
    mask[:, 31:33] = 255
    segmented.add_mask("a", mask)
    segmented.add_mask("c", mask, "val")
    path = [segmented.root, segmented.root.parent, segmented.root.parents[1]][levels]
    data = open_dataset(f"voc-seg:{path}", "train")
    assert data.name == "voc-seg:VOC2007 train"
    assert (len(data.classes), data.classes[0], data.classes[15]) == (21, "background", "person")
    assert [t.id for t in data.truths] == ["a"]
    assert np.array_equal(data.class_map(0), mask)
    assert data.notes == (
        "this train split (1 images) is not VOC2007's own: not comparable with published figures",
    )
    assert len(open_dataset(f"voc:{path}", "train")) == 2  # the detection half is as it was
    assert not open_dataset(f"voc:{path}", "train").semantic
    with pytest.raises(EmptyDataset, match="1 missing image"):
        open_dataset(f"voc-seg:{path}", "val")
    with pytest.raises(UnknownName, match=r"Did you mean 'train'"):
        open_dataset(f"voc-seg:{path}", "trian")
    assert len(open_dataset(f"voc-seg:{path}", "all")) == 1


def test_voc_without_masks(voc, obj):
    voc.add("a", obj("dog", 2, 2, 9, 9))
    with pytest.raises(DataError, match=r"voc-seg:.* is not laid out like PASCAL VOC: expected Segmentation"):
        open_dataset(f"voc-seg:{voc.root}")
    with pytest.raises(DataError, match=r"has no class map for a\.jpg"):
        open_dataset(f"voc:{voc.root}").class_map(0)


def test_real_palette_equals_pillow(shared):
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow to read palettes another way")
    data = open_dataset(f"voc-seg:{shared / 'VOCdevkit'}", "val")
    for i in range(0, len(data), 40):
        file = shared / "VOCdevkit/VOC2007/SegmentationClass" / f"{data.truths[i].id}.png"
        with image_module.open(file) as picture:
            assert picture.mode == "P"
            assert np.array_equal(data.class_map(i), np.asarray(picture))
