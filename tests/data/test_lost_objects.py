"""A data set that lost its objects says so, or is refused."""

from __future__ import annotations

import contextlib
import json

import pytest

from edgedet.contract.errors import AnnotationError, DataError, EmptyDataset, ImageError
from edgedet.data import open_dataset

ROW = "0 0.5 0.5 0.5 0.5\n"


@pytest.fixture
def yolo(tmp_path, image):
    """yolo(image, label text or None, ...) -> the data set's folder; labels lie where they are said to."""

    def write(*files, root=tmp_path / "data", names="dog\ncat\n"):
        for picture, place, labels in files:
            image(root / picture)
            if labels is not None:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_text(labels)
        (root / "classes.txt").write_text(names)
        return root

    return write


@pytest.mark.parametrize("labels", ["", None, "5 0.5 0.5 0.5 0.5\n", "107 166 178 215 0\n", "rubbish\n"])
def test_yolo_without_an_object_is_refused(yolo, labels):
    root = yolo(*[(f"images/train/{k}.jpg", f"labels/train/{k}.txt", labels) for k in range(3)])
    with pytest.raises(EmptyDataset, match="yolo:data train has no object in 3 images") as caught:
        open_dataset(f"yolo:{root}")
    reason = {"": "", None: "3 no label file", "5": "3 unknown class", "1": "3 unknown class"}
    assert reason.get(labels if not labels else labels[0], "3 malformed field") in str(caught.value)


def test_voc_and_coco_without_an_object_are_refused(tmp_path, voc, obj, image):
    voc.add("a")
    voc.add("b", obj("dogg", 2, 2, 9, 9))
    with pytest.raises(EmptyDataset, match=r"no object in 2 images \(1 unknown class\).*'dogg' was dropped"):
        open_dataset(f"voc:{voc.root}")
    image(tmp_path / "a.jpg")
    raw = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"image_id": "1", "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(raw))
    with pytest.raises(EmptyDataset, match=r"1 unknown image id.*no image has the id '1'"):
        open_dataset(f"coco:{tmp_path / 'a.json'}")


def test_images_alone_are_no_labels(yolo):
    root = yolo(("images/train/a.jpg", "", None))
    assert len(open_dataset(f"folder:{root}")) == 1


@pytest.mark.parametrize("missing", [1, 3])
def test_many_missing_label_files_are_said_loudly(yolo, missing):
    files = [
        (f"images/train/{k}.jpg", f"labels/train/{k}.txt", ROW if k >= missing else None) for k in range(4)
    ]
    data = open_dataset(f"yolo:{yolo(*files)}")
    assert f"left out: {missing} no label file" in data.left_out()
    if missing == 1:
        assert data.notes == ()
    else:
        assert data.notes[0].startswith("LABELS MISSING: 3 of 4 images have no label file (no ")
        assert data.notes[0].endswith("labels/train/0.txt: taken as an image without objects)")
        assert data.left_out().startswith(data.notes[0])


def test_many_lost_objects_are_said_loudly(yolo):
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", ROW + "2 0.5 0.5 0.5 0.5\n3 0.5 0.5 0.5 0.5\n"))
    data = open_dataset(f"yolo:{root}")
    assert data.notes == ("OBJECTS LOST: 2 of 3 objects were left out",)
    left = data.left_out()
    assert left.startswith(f"{data.notes[0]}; left out: 2 of 3 objects (2 unknown class); the first: ")
    assert data.summary() == f"yolo:data train: 1 images, 1 objects (dog 1, cat 0); {left}"


def test_a_part_says_what_was_left_out_of_it(yolo):
    lost = "2 0.5 0.5 0.5 0.5\n"
    rows = [ROW, ROW + lost, ROW + lost + "3 0.5 0.5 0.5 0.5\n", ROW]
    root = yolo(*[(f"images/train/{k}.jpg", f"labels/train/{k}.txt", r) for k, r in enumerate(rows)])
    (root / "images/train/4.jpg").write_bytes(b"nothing")
    whole = open_dataset(f"yolo:{root}")
    assert "left out: 1 broken image, 3 of 7 objects (3 unknown class)" in whole.left_out()
    assert whole.part(range(4)) is whole
    assert whole.part([0, 3]).left_out() == ""
    assert whole.part([0, 1]).left_out().startswith("left out: 1 of 3 objects (1 unknown class); the first: ")
    two = whole.part([2])
    assert two.notes == ("OBJECTS LOST: 2 of 3 objects were left out",)
    assert two.left_out().startswith(f"{two.notes[0]}; left out: 2 of 3 objects")
    assert two.part([0]).part([0]).name == whole.name


def test_what_is_found_in_a_part_is_known_to_the_whole(yolo):
    files = [(f"images/train/{k}.jpg", f"labels/train/{k}.txt", ROW) for k in range(3)]
    root = yolo(*files)
    whole = open_dataset(f"yolo:{root}")
    (root / "images/train/2.jpg").write_bytes(b"nothing")
    part = whole.part([1, 2]).part([1])
    with pytest.raises(ImageError):
        part.load(0)
    for data in (part, whole):
        assert data.problems.counts() == {"broken image": 1}
    assert whole.part([0, 1]).problems.counts() == {}


def test_every_kind_of_data_says_of_which_image_a_lost_object_is(tmp_path, voc, obj, image, yolo):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    voc.add(
        "b", obj("cat", 2, 2, 9, 9), obj("dogg", 2, 2, 9, 9), obj("cat", 3, 3, 3, 9), obj("cat", 1, "x", 2, 3)
    )
    for name in ("a", "b"):
        image(tmp_path / f"{name}.jpg")
    images = [{"id": k, "file_name": f"{'ab'[k]}.jpg", "width": 64, "height": 48} for k in range(2)]
    boxes = [
        (0, 1, [1, 1, 5, 5]),
        (1, 1, [1, 1, 5, 5]),
        (1, 2, [1, 1, 5, 5]),
        (1, 1, [1, 1, 0, 5]),
        (1, 1, [1]),
    ]
    annotations = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in boxes]
    raw = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(raw))
    rows = ROW + "5 0.5 0.5 0.5 0.5\n0 0.5 0.5 0 0.5\n0 1\n"
    root = yolo(
        ("images/train/a.jpg", "labels/train/a.txt", ROW), ("images/train/b.jpg", "labels/train/b.txt", rows)
    )
    for spec in (f"voc:{voc.root}", f"coco:{tmp_path / 'all.json'}", f"yolo:{root}"):
        data = open_dataset(spec)
        assert "left out: 3 of 5 objects" in data.left_out()
        assert data.part([0]).left_out() == ""
        assert "left out: 3 of 4 objects" in data.part([1]).left_out()


def test_many_lost_images_are_said_loudly(yolo):
    root = yolo(*[(f"images/train/{k}.jpg", f"labels/train/{k}.txt", ROW) for k in range(3)])
    for k in range(2):
        (root / f"images/train/{k}.jpg").write_bytes(b"nothing")
    assert open_dataset(f"yolo:{root}").notes == ("IMAGES LOST: 2 of 3 images were left out",)


def test_nothing_left_out_is_nothing_to_say(yolo):
    data = open_dataset(f"yolo:{yolo(('images/train/a.jpg', 'labels/train/a.txt', ROW))}")
    assert data.left_out() == ""
    assert data.summary() == "yolo:data train: 1 images, 1 objects (dog 1, cat 0)"


def test_what_was_only_corrected_is_not_left_out(voc, obj):
    voc.add("a", obj("cat", -3, 5, 20, 60))
    data = open_dataset(f"voc:{voc.root}")
    assert data.problems.counts() == {"clipped to the image": 1}
    assert data.left_out() == ""


@pytest.mark.parametrize("written", ["relative", "absolute"])
def test_no_folder_above_the_data_set_is_renamed(yolo, tmp_path, monkeypatch, written):
    root = tmp_path / "images" / "factory"
    # a trap: where labels would be, if the folder above were renamed
    trap = tmp_path / "labels" / "factory" / "photos" / "a.txt"
    trap.parent.mkdir(parents=True)
    trap.write_text("1 0.5 0.5 0.1 0.1\n")
    yolo(("photos/a.jpg", "photos/a.txt", ROW), root=root)
    (root / "train.txt").write_text("photos/a.jpg\n" if written == "relative" else f"{root}/photos/a.jpg\n")
    monkeypatch.chdir(root)
    for path in (root, "."):
        assert open_dataset(f"yolo:{path}").truths[0].labels.tolist() == [0]


def test_labels_are_found_where_tools_put_them(yolo):
    root = yolo(
        ("images/train/a.jpg", "labels/train/a.txt", ROW),
        ("images/beside/b.jpg", "images/beside/b.txt", ROW),  # LabelImg
        ("images/images/c.jpg", "images/labels/c.txt", ROW),  # the last "images" counts
    )
    for split in ("train", "beside", "images"):
        data = open_dataset(f"yolo:{root}", split)
        assert len(data.truths[0].boxes) == 1
        assert data.left_out() == ""


def test_lists_of_images_as_tools_write_them(yolo):
    root = yolo(*[(f"my photos/{n}.jpg", f"my photos/{n}.txt", ROW) for n in ("a", "b (1)", "c", "d")])
    rows = ["my photos/a.jpg", "my photos\\b (1).jpg", f"{root}/my photos/c.jpg", "./my photos/d.jpg"]
    (root / "train.txt").write_text("\n".join([*rows, rows[0], "my photos/a.gif", "my photos/gone.jpg", ""]))
    data = open_dataset(f"yolo:{root}")
    assert [t.id for t in data.truths] == ["a", "b (1)", "c", "d"]
    assert all(len(t.boxes) == 1 for t in data.truths)
    assert data.problems.counts() == {"missing image": 2, "duplicate entry": 1}
    (root / "lists").mkdir()
    (root / "lists" / "val.txt").write_text("../my photos/a.jpg\n")  # from where the list lies
    (root / "data.yaml").write_text("names: [dog, cat]\nval: lists/val.txt\n")
    assert len(open_dataset(f"yolo:{root}", "val").truths[0].boxes) == 1


def test_images_that_share_a_label_file_are_said(yolo):
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", ROW), ("images/train/a.png", "", None))
    data = open_dataset(f"yolo:{root}")
    assert data.problems.counts() == {"duplicate entry": 1}
    assert "it has the same label file as a.jpg" in data.left_out()


@pytest.mark.parametrize(
    ("text", "difficult", "notes"),
    [
        ("1", True, 0), ("0", False, 0), (" 1 ", True, 0),
        ("True", True, 1), ("yes", True, 1), ("1.0", True, 1),
        ("False", False, 1), ("", False, 1), ("x", False, 1),
    ],
)  # fmt: skip
def test_difficult_in_every_spelling(voc, obj, text, difficult, notes):
    voc.add("a", obj("cat", 2, 2, 9, 9, difficult=text))
    data = open_dataset(f"voc:{voc.root}")
    assert data.truths[0].ignore.tolist() == [difficult]
    assert data.problems.counts() == ({"unusual value": 1} if notes else {})
    if notes:
        assert "expected 0 or 1: taken as" in str(data.problems.items[0])


def test_two_boxes_of_one_object_and_two_images_of_one_name(voc, obj, image):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    voc.add("a", obj("cat", 2, 2, 9, 9).replace("</object>", f"{box}</object>"))
    image(voc.root / "JPEGImages" / "a.png")
    data = open_dataset(f"voc:{voc.root}")
    assert data.problems.counts() == {"duplicate entry": 1, "unusual value": 1}
    assert data.truths[0].path.name == "a.jpg"


@pytest.mark.parametrize(
    ("key", "entry", "expected"),
    [
        (
            "categories",
            {"id": 1, "name": "dog"},
            r"categories\[1\] gives the id 1 a second name, 'dog': it is 'cat'",
        ),
        ("categories", {"id": 2, "name": " "}, "which is no name"),
        ("categories", {"id": 2, "name": "\ud800"}, "which is no name"),
    ],
)
def test_coco_ids_that_replace_each_other(tmp_path, image, key, entry, expected):
    image(tmp_path / "a.jpg")
    raw = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    raw[key].append(entry)
    (tmp_path / "a.json").write_text(json.dumps(raw))
    with pytest.raises(AnnotationError, match=expected):
        open_dataset(f"coco:{tmp_path / 'a.json'}")


def test_coco_values_that_are_odd(tmp_path, image):
    for name in ("a.jpg", "in/b.jpg"):
        image(tmp_path / name)
    box = {"category_id": 1, "bbox": [1, 1, 5, 5]}
    raw = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 2, "file_name": "in\\b.jpg", "width": 64, "height": 48},  # from Windows
            {"id": 3, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 4, "file_name": "nul\0.jpg"},
        ],
        "annotations": [
            {"image_id": 1, "iscrowd": "1", **box},
            {"image_id": 2, "iscrowd": True, **box},
            {"image_id": 2, "category_id": 1, "bbox": [1, 1, 10**400, 5]},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(raw))
    data = open_dataset(f"coco:{tmp_path / 'a.json'}")
    assert [(t.id, t.ignore.tolist()) for t in data.truths] == [("a", [False]), ("b", [True]), ("a", [])]
    assert data.problems.counts() == {"malformed field": 2, "duplicate entry": 1, "unusual value": 1}


def test_two_classes_of_one_name(yolo):
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", ROW))
    with pytest.raises(DataError, match="has two classes called 'dog'"):
        open_dataset(f"yolo:{root}", classes=("dog", "cat", "dog"))


def test_images_that_do_not_fit_their_labels_are_known_before_they_are_read(voc, obj):
    sizes = {"good": (64, 48), "other": (640, 480), "turned": (48, 64), "gone": (64, 48), "empty": (64, 48)}
    for name, (width, height) in sizes.items():
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        voc.add(name, obj("cat", 2, 2, 9, 9), size=size)
    data = open_dataset(f"voc:{voc.root}")
    (voc.root / "JPEGImages/gone.jpg").unlink()
    (voc.root / "JPEGImages/empty.jpg").write_bytes(b"")
    assert "left out: 4 broken image; the first: " in data.left_out()
    assert "is 64x48, but its labels are for 640x480" in data.left_out()
    for index in range(len(data)):
        with contextlib.suppress(ImageError):
            data.load(index)
    assert data.problems.counts() == {"broken image": 4}


@pytest.fixture
def coco(tmp_path, image):
    """coco(annotations, size=...) -> the data set of one image, a.jpg."""

    def write(*annotations, size=(64, 48), text=None):
        image(tmp_path / "a.jpg")
        known = {} if size is None else {"width": size[0], "height": size[1]}
        raw = {
            "images": [{"id": 1, "file_name": "a.jpg", **known}],
            "annotations": [{"image_id": 1, "category_id": 1} | a for a in annotations],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(text(json.dumps(raw)) if text else json.dumps(raw))
        return open_dataset(f"coco:{tmp_path / 'a.json'}")

    return write


def test_fractions_in_place_of_pixels_are_refused(coco, voc, obj):
    with pytest.raises(DataError, match=r"All 2 boxes of coco:a lie in the first pixel .* expected pixels"):
        coco({"bbox": [0.1, 0.1, 0.5, 0.4]}, {"bbox": [0.5, 0.5, 0.5, 0.5]})
    voc.add("a", obj("cat", 0.1, 0.2, 0.5, 1))
    with pytest.raises(DataError, match="they seem to be fractions"):
        open_dataset(f"voc:{voc.root}")
    assert len(coco({"bbox": [0.1, 0.1, 0.5, 0.4]}, {"bbox": [1, 1, 5, 5]}).truths[0].boxes) == 2


def test_labels_without_a_size_are_checked_against_the_image(coco, voc, obj):
    data = coco({"bbox": [1, 1, 5, 5]}, {"bbox": [500, 1, 5, 5]}, {"bbox": [60, 1, 50, 5]}, size=None)
    assert data.truths[0].boxes.tolist() == [[1, 1, 6, 6], [60, 1, 64, 6]]
    assert data.problems.counts() == {"out of bounds": 1, "clipped to the image": 1}
    voc.add("a", obj("cat", 2, 2, 9, 9), obj("cat", 500, 2, 600, 9), size="")
    data = open_dataset(f"voc:{voc.root}")
    assert data.truths[0].boxes.tolist() == [[1, 1, 9, 9]]
    assert data.problems.counts() == {"out of bounds": 1}


def test_coco_entries_that_are_there_twice(coco):
    one = {"id": 1, "bbox": [1, 1, 5, 5]}
    data = coco(one, one, one | {"bbox": [2, 2, 5, 5]}, {"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]})
    assert len(data.truths[0].boxes) == 4
    assert [p.detail for p in data.problems.items] == [
        "annotations[1] is annotations[0] again: it was dropped"
    ]


@pytest.mark.parametrize(
    ("key", "more"), [("annotations", '{"annotations": [], '), ("images", '{"images": [], ')]
)
def test_json_with_a_key_twice_is_refused(coco, key, more):
    with pytest.raises(AnnotationError, match=f"it has '{key}' twice"):
        coco({"bbox": [1, 1, 5, 5]}, text=lambda raw: more + raw[1:])


def test_yolo_classes_are_chosen_by_name(yolo):
    rows = "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.1 0.1\n"
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", rows))  # 0 dog, 1 cat
    data = open_dataset(f"yolo:{root}", classes=("cat", "dog"))
    assert data.truths[0].labels.tolist() == [1, 0]
    data = open_dataset(f"yolo:{root}", classes=("cat",))
    assert data.truths[0].labels.tolist() == [0]
    assert "unknown class: 'dog' was dropped" in str(data.problems.items[0])


def test_yolo_images_in_folders_of_a_split_are_found(yolo):
    root = yolo(
        ("images/train/a.jpg", "labels/train/a.txt", ROW),
        ("images/train/north/a.jpg", "labels/train/north/a.txt", ROW),
    )
    data = open_dataset(f"yolo:{root}")
    assert [len(t.boxes) for t in data.truths] == [1, 1]
    assert len(data.problems) == 0
    (root / "data.yaml").write_text("names: [dog, cat]\ntrain: images/train\n")
    assert len(open_dataset(f"yolo:{root}")) == 2


def test_yolo_labels_whose_images_are_not_read_are_said(yolo):
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", ROW))
    for name in ("b", "c", ".d", "classes"):
        (root / f"labels/train/{name}.txt").write_text(ROW)
    (root / "images/train/b.heic").write_bytes(b"a photo")
    data = open_dataset(f"yolo:{root}")
    assert data.notes == ("IMAGES LOST: 2 of 3 images were left out",)
    assert [p.path.name for p in data.problems.items] == ["b.txt", "c.txt"]


@pytest.mark.parametrize("number", ["0.2_5", "1_0"])
def test_numbers_of_python_are_no_numbers(yolo, voc, obj, number):
    root = yolo(("images/train/a.jpg", "labels/train/a.txt", f"{ROW}0 0.5 0.5 {number} 0.5\n"))
    assert open_dataset(f"yolo:{root}").problems.counts() == {"malformed field": 1}
    voc.add("a", obj("cat", 2, 2, 9, 9), obj("cat", 2, 2, number, 9))
    assert open_dataset(f"voc:{voc.root}").problems.counts() == {"malformed field": 1}
