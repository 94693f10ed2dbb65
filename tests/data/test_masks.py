"""Folders of masks and VOC's palette masks: layouts, splits, meanings, and masks that are wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import AnnotationError, DataError, EmptyDataset, MaskError, UnknownName
from edgedet.contract.spec import VOID
from edgedet.data import open_dataset
from edgedet.data.mask_labels import labels_of

SIZE = (48, 64)


def write_mask(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), labels)
    return path


def halves(left: int, right: int) -> np.ndarray:
    """A mask whose left half is one value and whose right half another."""
    mask = np.full(SIZE, right, np.uint8)
    mask[:, : SIZE[1] // 2] = left
    return mask


@pytest.fixture
def own(tmp_path, image):
    """A user's own folder: own(mask, ...) adds a.jpg, b.jpg, ... and opens it by own.open()."""

    class Own:
        root = tmp_path / "own"
        count = 0

        def __call__(self, *masks, classes="ground\nthing\n"):
            for mask in masks:
                name = "abcdefghijklmnopqrstuvwxyz"[self.count]
                self.count += 1
                image(self.root / "images" / f"{name}.jpg")
                write_mask(self.root / "masks" / f"{name}.png", mask)
            if classes is not None:
                (self.root / "classes.txt").write_text(classes)
            return self

        def open(self, split="all", **options):
            return open_dataset(f"masks:{self.root}", split, **options)

        @property
        def mask(self):
            return self.root / "masks" / "a.png"

    return Own()


def test_a_folder_of_ones_own(own):
    data = own(halves(1, 0), halves(0, 255)).open()
    assert data.name == "masks:own all"
    assert data.classes == ("ground", "thing")
    assert (data.semantic, data.labelled, data.notes, len(data.problems)) == (True, True, (), 0)
    assert np.array_equal(data.class_map(0), halves(1, 0))
    assert np.array_equal(data.class_map(1), halves(0, VOID))
    sample = data.load(1)
    assert sample.image.shape == (*SIZE, 3)
    assert sample.class_map.dtype == np.uint8
    assert np.array_equal(sample.class_map, halves(0, VOID))
    assert sample.boxes.shape == (0, 4)


def test_a_mask_is_decoded_only_when_asked_for(own):
    data = own(halves(1, 0)).open()
    own.mask.unlink()
    assert data.image(0).shape == (*SIZE, 3)
    with pytest.raises(MaskError, match=r"a\.png: unreadable mask: Cannot read"):
        data.class_map(0)


def test_masks_may_be_called_mask(own):
    own(halves(1, 0))
    own.mask.rename(own.mask.with_name("a_mask.png"))
    data = own.open()
    assert len(data) == 1
    assert len(data.problems) == 0


def test_without_classes_masks_are_binary(own):
    data = own(halves(255, 0), halves(1, 0), classes=None).open()
    assert data.classes == ("background", "foreground")
    assert data.notes == ("no classes.txt: the masks are read as 0 background, 255 foreground",)
    assert np.array_equal(data.class_map(0), halves(1, 0))
    with pytest.raises(MaskError, match=r"b\.png: .*hold 1 .*expected 0, 255\. Give every value a name"):
        data.class_map(1)


def test_a_folder_per_part(own, image):
    for masks, images in (("masks/train", "images/train"), ("val/masks", "val/images")):
        image(own.root / images / "x.jpg")
        write_mask(own.root / masks / "x.png", halves(0, 1))
    own(classes="a\nb")
    assert own.open("train").truths[0].path == own.root / "images" / "train" / "x.jpg"
    with pytest.raises(UnknownName, match=r"no split of own is named 'vall'\. Known: train"):
        own.open("vall")
    (own.root / "images").rename(own.root / "elsewhere")
    assert own.open("val").truths[0].path == own.root / "val" / "images" / "x.jpg"


def test_lists(own):
    own(*[halves(0, 1)] * 4)
    (own.root / "train.txt").write_text("a\nimages/b.jpg\n\nb\nz\n")
    (own.root / "val.txt").write_text("d\n")
    data = own.open("train")
    assert [t.id for t in data.truths] == ["a", "b"]
    assert data.problems.counts() == {"duplicate entry": 1, "missing image": 1}
    assert [t.id for t in own.open("val+train").truths] == ["d", "a", "b"]
    assert len(own.open("all")) == 4
    with pytest.raises(UnknownName, match=r"no split of own is named 'trian'\. Did you mean 'train'"):
        own.open("trian")


def test_without_lists_the_last_fifth_is_val(own):
    own(*[halves(0, 1)] * 11)
    train, val = own.open("train"), own.open("val")
    assert "".join(t.id for t in train.truths) == "abcdefghi"
    assert "".join(t.id for t in val.truths) == "jk"
    assert "val is the last fifth by name" in val.notes[0]
    assert "(val: 2 of 11 images)" in val.notes[0]
    (own.root / "train.txt").write_text("a\n")  # now something does say it
    with pytest.raises(UnknownName, match="no split of own is named 'val'"):
        own.open("val")


def test_what_has_no_partner_is_named(own, image):
    own(halves(0, 1))
    image(own.root / "images" / "alone.jpg")
    image(own.root / "images" / "a.png")
    write_mask(own.root / "masks" / "orphan.png", halves(0, 1))
    data = own.open()
    assert [t.path.name for t in data.truths] == ["a.jpg"]
    assert data.problems.counts() == {"duplicate entry": 1, "missing image": 1, "missing mask": 1}
    named = {p.kind: p.path.name for p in data.problems.items}
    assert named == {"duplicate entry": "a.png", "missing image": "orphan.png", "missing mask": "alone.jpg"}


def test_no_layout(tmp_path):
    with pytest.raises(DataError, match=r"is in no layout known.*images/.*masks/.*classes\.txt"):
        open_dataset(f"masks:{tmp_path}")


def test_nothing_in_it(own):
    (own.root / "images").mkdir(parents=True)
    (own.root / "masks").mkdir()
    with pytest.raises(EmptyDataset, match="masks:own all has no usable image"):
        own.open()


def test_chosen_classes(own):
    own(halves(0, 1), classes="a\nb\nc\n")
    data = own.open(classes=["c", "b"])
    assert data.classes == ("c", "b")
    assert np.array_equal(data.class_map(0), halves(VOID, 1))
    assert own.open(classes=own.open().classes).fingerprint() == own.open().fingerprint()
    with pytest.raises(DataError, match=r"has none of the classes x\. Its classes are a, b, c"):
        own.open(classes=["x"])


# -- classes.txt


def test_what_classes_txt_may_say():
    labels = labels_of(
        "7: seven\neight\n\n  20 - 25 : many\n3: VOID\n1: eight\ntraffic light: red\n", Path("f")
    )
    assert labels.classes == ("seven", "eight", "many", "traffic light: red")
    known = {7: 0, 8: 1, 1: 1, **dict.fromkeys(range(20, 26), 2), 3: VOID, 255: VOID, 2: 3}
    assert {v: int(k) for v, k in enumerate(labels.table) if k >= 0} == known
    assert labels.values() == "1-2, 7-8, 20-25, void 3, 255"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\na", r"classes\.txt:3: 'a' is named twice"),
        ("a\n0: b", r"classes\.txt:2: '0: b' gives a value a second meaning"),
        ("250-256: a", r"classes\.txt:1: .* is for 250 to 256 of 0 to 255"),
        ("9-3: a", r"classes\.txt:1: .* is for 9 to 3"),
        ("255: a\nb", r"classes\.txt:2: .* is for 256 to 256"),
        ("", r"classes\.txt: names no class.*Write one class name per line"),
        ("void", r"classes\.txt: names no class"),
        ("\n".join(f"c{i}" for i in range(256)), r"names 256 classes; a map of bytes has room for 255"),
    ],
)
def test_classes_txt_that_cannot_be_used(own, text, expected):
    with pytest.raises(AnnotationError, match=expected):
        own(halves(0, 1), classes=text).open()


# -- masks that are wrong: each error names the file


def refused(data, kind: str, expected: str) -> None:
    for ask in (data.class_map, data.load):
        with pytest.raises(MaskError, match=rf"a\.png: {kind}: .*{expected}"):
            ask(0)
    assert data.problems.counts() == {kind: 1}  # once
    assert data.problems.items[0].path.name == "a.png"


def test_a_mask_of_another_size(own):
    data = own(np.zeros((64, 48), np.uint8)).open()
    refused(data, "mask of another size", r"it is 48x64, but its image a\.jpg is 64x48\. Export the mask")


def test_a_label_outside_the_classes(own):
    mask = halves(0, 1)
    mask[5, 9:12] = 2
    refused(own(mask).open(), "label outside the classes", r"3 pixels hold 2 \(the first at x 9, y 5\), exp")


def test_labels_of_16_bits(own):
    data = own(halves(0, 1).astype(np.uint16), halves(0, 1).astype(np.uint16) * 700).open()
    assert np.array_equal(data.class_map(0), halves(0, 1))
    with pytest.raises(MaskError, match=r"b\.png: label outside the classes: 1536 pixels hold 700"):
        data.class_map(1)


def test_labels_that_are_fractions(own):
    own(halves(0, 1))
    own.mask.unlink()
    write_mask(own.mask.with_suffix(".tiff"), halves(0, 1).astype(np.float32))
    with pytest.raises(MaskError, match=r"a\.tiff: unreadable mask: its pixels are float32, expected 8-bit"):
        own.open().class_map(0)


def test_a_palette_mask_read_as_rgb(own):
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[:, :32] = (0, 0, 128)
    colours[:9] = (0, 128, 0)
    expected = r"3 channels with 3 different colours.*a palette mask that was read as RGB.*the palette file"
    refused(own(colours).open(), "mask of colours", expected)


def test_a_grey_mask_saved_as_rgb(own):
    data = own(np.repeat(halves(0, 1)[..., None], 3, 2)).open()
    refused(data, "mask of colours", r"3 equal channels, expected one of labels\. Keep one channel")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_mask(own, channels):
    own(halves(0, 1))
    own.mask.unlink()
    mask = halves(0, 255) if channels == 1 else np.repeat(halves(0, 255)[..., None], 3, 2)
    write_mask(own.mask.with_suffix(".jpg"), mask)
    with pytest.raises(
        MaskError, match=r"a\.jpg: mask of colours: it is a JPEG.*as PNG files of one channel"
    ):
        own.open().class_map(0)


def test_an_all_void_image(own):
    refused(own(halves(VOID, VOID)).open(), "all void", "it says nothing of any of its 3072 pixels")


def test_a_truncated_mask(own):
    data = own(np.random.default_rng(0).integers(0, 2, SIZE, np.uint8)).open()
    own.mask.write_bytes(own.mask.read_bytes()[:-30])
    refused(data, "unreadable mask", "a.png is truncated")


# -- fingerprint


def test_fingerprint_is_of_the_masks_not_the_place(own, tmp_path):
    own(halves(0, 1), halves(0, 1))
    one = own.open().fingerprint()
    own.root = own.root.rename(tmp_path / "moved")
    assert own.open().fingerprint() == one
    mask = own.mask.read_bytes()
    write_mask(own.mask, halves(1, 0))
    assert own.open().fingerprint() != one
    own.mask.write_bytes(mask)
    assert own.open().fingerprint() == one
    (own.root / "classes.txt").write_text("1: ground\n0: thing\n")
    assert own.open().classes == ("ground", "thing")
    assert own.open().fingerprint() != one


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_fingerprint_of_a_name_that_is_no_utf8(own):
    own(halves(0, 1))
    image, mask = own.open().truths[0].path, own.mask
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/\xe9" + os.fsencode(image.suffix)))
    mask.rename(os.fsdecode(os.fsencode(mask.parent) + b"/\xe9.png"))
    assert len(own.open().fingerprint()) == 64


# -- real data


@pytest.mark.parametrize(
    ("spec", "split", "images", "classes", "void"),
    [
        ("masks:camvid", "train", 367, 11, True),
        ("masks:camvid", "test", 233, 11, True),
        ("masks:isbi2012", "train", 24, 2, False),
        ("masks:isbi2012", "val", 6, 2, False),
        ("masks:pennfudan", "train", 120, 2, False),
        ("masks:pennfudan", "val", 50, 2, False),
        ("voc-seg:VOCdevkit", "train", 209, 21, True),
        ("voc-seg:VOCdevkit", "val", 213, 21, True),
    ],
)
def test_real_masks(shared, spec, split, images, classes, void):
    kind, _, name = spec.partition(":")
    data = open_dataset(f"{kind}:{shared / name}", split)
    assert (len(data), len(data.classes), len(data.problems)) == (images, classes, 0)
    found = np.zeros(256, np.int64)
    for i in range(0, images, images // 6):
        sample = data.load(i)
        assert sample.class_map.shape == sample.image.shape[:2]
        found += np.bincount(sample.class_map.reshape(-1), minlength=256)
    assert found[classes:VOID].sum() == 0
    assert (found[VOID] > 0) == void
    if classes < 21:
        assert (found[:classes] > 0).all()


def test_real_membranes_are_class_1(shared):
    data = open_dataset(f"masks:{shared / 'isbi2012'}", "val")
    stored = cv2.imread(str(shared / "isbi2012" / "label" / "24.png"), cv2.IMREAD_UNCHANGED)
    assert data.classes == ("cell", "membrane")
    assert [t.id for t in data.truths] == ["24", "25", "26", "27", "28", "29"]
    assert np.array_equal(data.class_map(0), np.where(stored == 0, 1, 0))


def test_real_pedestrians_fill_their_boxes(shared):
    import json

    boxes = json.loads((shared / "pennfudan" / "boxes.json").read_text())
    data = open_dataset(f"masks:{shared / 'pennfudan'}", "val")
    for i in range(0, len(data), 10):
        person = data.class_map(i) == data.classes.index("person")
        inside = np.zeros_like(person)
        for pedestrian in boxes[data.truths[i].id]["pedestrians"]:
            x0, y0, x1, y1 = pedestrian["box_xyxy"]
            assert person[y0:y1, x0].any()
            assert person[y1 - 1, x0:x1].any()
            inside[y0:y1, x0:x1] = True
        assert not person[~inside].any()


def test_two_masks_of_one_image_are_said(own):
    data_set = own(halves(1, 0))
    write_mask(own.root / "masks" / "a_mask.png", halves(0, 1))
    data = data_set.open()
    assert np.array_equal(data.class_map(0), halves(1, 0))
    assert "a_mask.png: duplicate entry: a.png is used instead" in data.left_out()


def test_smoothed_masks_have_a_hint_of_their_own(own):
    soft = cv2.GaussianBlur(halves(255, 0), (9, 9), 0)
    data = own(soft, halves(1, 0), classes=None).open()
    with pytest.raises(MaskError, match=r"expected 0, 255\. .* borders that were smoothed .*cv2\.threshold"):
        data.class_map(0)
    with pytest.raises(MaskError, match=r"hold 1 .*Give every value a name in classes\.txt"):
        data.class_map(1)


def test_values_beyond_all_labels_are_not_smoothed_borders(own):
    mask = np.repeat(np.arange(48, dtype=np.uint8)[:, None], 64, axis=1)
    with pytest.raises(MaskError, match="Give every value a name"):
        own(mask).open().class_map(0)


def test_a_value_of_thousands_of_digits(own):
    with pytest.raises(AnnotationError, match=r"classes\.txt:2: names a value of more than nine digits"):
        own(halves(0, 1), classes="ground\n" + "9" * 5000 + ": thing\n").open()
