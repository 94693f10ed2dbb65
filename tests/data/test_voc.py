"""PASCAL VOC: boxes, splits, classes, and labels that are wrong in every way we know."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.contract.errors import AnnotationError, DataError, EmptyDataset, ImageError, UnknownName
from edgedet.data import open_dataset
from edgedet.data.voc import CLASSES
from edgedet.data.voc_xml import parse


def test_boxes_become_zero_based_and_exclusive(voc, obj):
    voc.add("a", obj("dog", 1, 1, 64, 48), obj("person", 11, 21, 30, 40, difficult=1))
    data = open_dataset(f"voc:{voc.root}", "train")
    truth = data.truths[0]
    assert data.classes == CLASSES
    assert truth.boxes.dtype == np.float32
    assert truth.boxes.tolist() == [[0, 0, 64, 48], [10, 20, 30, 40]]
    assert [CLASSES[k] for k in truth.labels] == ["dog", "person"]
    assert truth.ignore.tolist() == [False, True]
    assert (truth.id, truth.size, len(data.problems)) == ("a", (48, 64), 0)


def test_load_gives_rgb(voc, obj):
    voc.add("a", obj("dog", 2, 2, 9, 9))
    data = open_dataset(f"voc:{voc.root}")
    sample = data.load(0)
    assert sample.id == "a"
    assert sample.image.shape == (48, 64, 3)
    assert np.array_equal(sample.image, data.image(0)[..., ::-1])
    assert not np.array_equal(sample.image, data.image(0))


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_the_devkit_may_be_given_instead(voc, obj, levels):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    path = [voc.root, voc.root.parent, voc.root.parents[1]][levels]
    data = open_dataset(f"voc:{path}")
    assert data.name == "voc:VOC2007 train"
    assert len(data) == 1


def test_two_data_sets_in_one_devkit(voc, obj, tmp_path):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    (voc.root.parent / "VOC2012" / "Annotations").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds several data sets.*VOC2007.*VOC2012"):
        open_dataset(f"voc:{voc.root.parent}")


def test_splits(voc, obj):
    voc.add("a", obj("cat", 2, 2, 9, 9), split="train")
    voc.add("b", obj("cat", 2, 2, 9, 9), split="val")
    voc.annotate("c", "<annotation/>", split="other")
    ids = lambda split: [t.id for t in open_dataset(f"voc:{voc.root}", split).truths]  # noqa: E731
    assert ids("train") == ["a"]
    assert ids("val+train") == ["b", "a"]
    assert ids("all") == ["a", "b"]  # c has no image
    with pytest.raises(UnknownName, match=r"no split of VOC2007 is named 'vall'\. Did you mean 'val'"):
        ids("vall")


def test_a_class_list_and_a_repeated_line(voc, obj):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    (voc.root / "ImageSets/Main/cat_train.txt").write_text("a  1\n\na -1\n")
    data = open_dataset(f"voc:{voc.root}", "cat_train")
    assert len(data) == 1
    assert [str(p).split("/")[-1] for p in data.problems.items] == [
        "cat_train.txt:3: duplicate entry: a is listed twice"
    ]


def test_classes_of_another_set_come_from_all_its_annotations(voc, obj, tmp_path):
    root = voc.root.rename(tmp_path / "cells")
    voc.root = root
    voc.add("a", obj("RBC", 2, 2, 9, 9), split="train")
    voc.add("b", obj("WBC", 2, 2, 9, 9), obj("person", 1, 1, 5, 5), split="val")
    for split in ("train", "val"):
        assert open_dataset(f"voc:{root}", split).classes == ("RBC", "WBC", "person")
    chosen = open_dataset(f"voc:{root}", "val", classes=["person"])
    assert chosen.classes == ("person",)
    assert chosen.problems.counts() == {"unknown class": 1}


@pytest.mark.parametrize(
    ("box", "kind", "left"),
    [
        ((10, 10, 10, 20), "zero area", None),
        ((10, 20, 15, 10), "zero area", None),
        ((-3, 5, 20, 60), "clipped to the image", [0, 4, 20, 48]),
        ((70, 5, 90, 20), "out of bounds", None),
        (("ten", 5, 20, 20), "malformed field", None),
        (("nan", 5, 20, 20), "malformed field", None),
        (("", 5, 20, 20), "malformed field", None),
    ],
)
def test_dirty_boxes_are_named_with_file_and_line(voc, obj, box, kind, left):
    file = voc.add("a", obj("cat", 2, 2, 9, 9), obj("dog", *box))
    data = open_dataset(f"voc:{voc.root}")
    assert data.problems.counts() == {kind: 1}
    problem = data.problems.items[0]
    # two lines of head, five of the cat, two of the dog
    assert (problem.path, problem.line) == (file, 10)
    assert "dog" in problem.detail
    assert data.truths[0].boxes[1:].tolist() == ([] if left is None else [left])


def test_unknown_class(voc, obj):
    voc.add("a", obj("dogg", 2, 2, 9, 9), obj("dog", 2, 2, 9, 9))
    data = open_dataset(f"voc:{voc.root}")
    assert data.problems.counts() == {"unknown class": 1}
    assert len(data.truths[0].boxes) == 1


def test_names_that_differ_by_case_are_two_classes_and_said(voc, obj, tmp_path):
    voc.root = voc.root.rename(tmp_path / "mine")
    voc.add("a", obj("Dog", 2, 2, 9, 9), obj("dog", 2, 2, 9, 9), obj("cat", 2, 2, 9, 9))
    data = open_dataset(f"voc:{voc.root}")
    assert data.classes == ("Dog", "cat", "dog")
    assert data.notes == ("'Dog' and 'dog' are taken as different classes",)


def test_an_object_without_a_box_and_parts_that_are_no_objects(voc, obj):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    whole = obj("person", 2, 2, 9, 9).replace("</object>", f"{part}</object>")
    voc.add("a", whole, "<object><name>cat</name></object>")
    data = open_dataset(f"voc:{voc.root}")
    assert data.problems.counts() == {"malformed field": 1}
    assert data.truths[0].boxes.tolist() == [[1, 1, 9, 9]]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_said_is_the_images(voc, obj, size):
    voc.add("a", obj("cat", 2, 2, 9, 9), size=size)
    data = open_dataset(f"voc:{voc.root}")
    assert data.truths[0].size == (48, 64)
    assert data.load(0).image.shape == (48, 64, 3)


def test_files_that_cannot_be_read_are_left_out(voc, obj):
    voc.add("good", obj("cat", 2, 2, 9, 9))
    voc.annotate("broken", "<annotation>\n<object>\n</annotation>")
    voc.annotate("absent", "<annotation/>")
    (voc.root / "Annotations/absent.xml").unlink()
    voc.annotate("blind", "<annotation/>")
    data = open_dataset(f"voc:{voc.root}")
    assert [t.id for t in data.truths] == ["good"]
    assert data.problems.counts() == {"unreadable annotation": 2, "missing image": 1}
    broken = next(p for p in data.problems.items if p.path.stem == "broken")
    assert (broken.line, broken.detail) == (3, "is not well-formed XML: mismatched tag")


def test_nothing_usable(voc):
    voc.annotate("a", "<annotation")
    with pytest.raises(
        EmptyDataset, match=r"voc:VOC2007 train has no usable image \(1 unreadable annotation\)"
    ):
        open_dataset(f"voc:{voc.root}")


@pytest.mark.parametrize(
    "head", ['<!DOCTYPE a [<!ENTITY x "y">]>', '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>']
)
def test_entities_are_refused(tmp_path, head):
    file = tmp_path / "a.xml"
    file.write_text(
        f"<?xml version='1.0'?>\n{head}\n<annotation><object><name>&x;</name></object></annotation>"
    )
    with pytest.raises(AnnotationError, match=r"a\.xml:2: it declares XML entities"):
        parse(file)


@pytest.mark.parametrize(
    "text", ["", "<html/>", "<annotation", "<?xml version='1.0' encoding='nope'?><annotation/>"]
)
def test_no_annotation(tmp_path, text):
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        parse(file)


def test_a_broken_image_is_one_problem_however_often_it_is_met(voc, obj):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    path = voc.root / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    data = open_dataset(f"voc:{voc.root}")
    for _ in range(3):
        with pytest.raises(ImageError, match=r"a\.jpg is truncated"):
            data.load(0)
    assert data.problems.counts() == {"broken image": 1}


def test_an_image_of_another_size_than_its_annotation(voc, obj):
    voc.add("a", obj("cat", 2, 2, 9, 9), size="<size><width>640</width><height>480</height></size>")
    with pytest.raises(ImageError, match="is 64x48, but its labels are for 640x480"):
        open_dataset(f"voc:{voc.root}").load(0)


def test_a_split_that_is_not_vocs_own_says_so(voc, obj, tmp_path):
    voc.add("a", obj("cat", 2, 2, 9, 9), split="test")
    assert "is not VOC2007's own" in open_dataset(f"voc:{voc.root}", "test").notes[0]
    other = voc.root.rename(tmp_path / "mine")
    assert open_dataset(f"voc:{other}", "test").notes == ()


def test_real_voc(shared):
    parts = [open_dataset(f"voc:{shared}/VOCdevkit/VOC2007", split) for split in ("train", "val")]
    assert [len(p) for p in parts] == [4311, 700]
    truths = [t for p in parts for t in p.truths]
    assert sum(len(t.boxes) for t in truths) == 15662
    assert sum(int(t.ignore.sum()) for t in truths) == 3054
    assert all(len(p.problems) == 0 for p in parts)
    assert parts[1].load(5).image.ndim == 3


def test_real_dirty_labels(shared):
    data = open_dataset(f"voc:{shared}/bccd", "all")
    assert len(data) == 364
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert [(p.path.stem, p.line, p.kind) for p in data.problems.items] == [
        ("BloodImage_00338", 163, "zero area"),
        ("BloodImage_00343", 55, "zero area"),
    ]
    counts = np.bincount(np.concatenate([t.labels for t in data.truths]))
    assert counts.tolist() == [361, 4155 - 2, 372]
    assert len(open_dataset(f"voc:{shared}/bccd", "train")) == 205
