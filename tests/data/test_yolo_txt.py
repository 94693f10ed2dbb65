"""YOLO's text labels: layouts, class names, and lines that are wrong in every way we know."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.contract.errors import AnnotationError, DataError, EmptyDataset, UnknownName
from edgedet.data import open_dataset


@pytest.fixture
def yolo(tmp_path, image):
    """Writes images and labels; returns a function (image path, label lines) -> label file."""

    def add(picture: str, labels: str | None, *, root=tmp_path):
        path = image(root / picture)
        file = root.joinpath(*("labels" if p == "images" else p for p in path.relative_to(root).parts))
        file = file.with_suffix(".txt")
        if labels is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(labels)
        return file

    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    return add


def test_boxes(yolo, tmp_path):
    yolo("images/train/a.jpg", "1 0.5 0.5 0.25 0.5\n\n0 0.125 0.25 0.25 0.5\n")
    data = open_dataset(f"yolo:{tmp_path}", "train")
    assert data.classes == ("dog", "cat")
    truth = data.truths[0]
    assert truth.size == (48, 64)
    assert np.allclose(truth.boxes, [[24, 12, 40, 36], [0, 0, 16, 24]])
    assert truth.labels.tolist() == [1, 0]
    assert not truth.ignore.any()
    assert len(data.problems) == 0


@pytest.mark.parametrize("picture", ["images/val/a.jpg", "val/images/a.jpg"])
def test_layouts_by_folders(yolo, tmp_path, picture):
    yolo(picture, "0 0.5 0.5 0.5 0.5")
    assert len(open_dataset(f"yolo:{tmp_path}", "val").truths[0].boxes) == 1
    with pytest.raises(UnknownName, match=r"is named 'vall'\. Did you mean 'val'"):
        open_dataset(f"yolo:{tmp_path}", "vall")


def test_a_flat_folder_is_one_part(yolo, tmp_path):
    yolo("images/a.jpg", "0 0.5 0.5 0.5 0.5")
    assert len(open_dataset(f"yolo:{tmp_path}", "all")) == 1
    with pytest.raises(UnknownName, match=r"is named 'train'.*all"):
        open_dataset(f"yolo:{tmp_path}", "train")


def test_a_list_of_images_with_labels_beside_them(yolo, tmp_path):
    yolo("photos/a.jpg", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "train.txt").write_text("photos/a.jpg\nphotos/gone.jpg\n")
    data = open_dataset(f"yolo:{tmp_path}", "train")
    assert len(data.truths[0].boxes) == 1
    assert data.problems.counts() == {"missing image": 1}


@pytest.mark.parametrize(
    "names",
    ["names: [dog, 'big cat']", "names:\n  0: dog\n  1: big cat", "names:\n- dog\n- big cat  # a comment"],
)
def test_data_yaml(yolo, tmp_path, names):
    yolo("images/train/a.jpg", "1 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(
        f"path: /another/machine\ntrain: images/train\nval: ../images/train\n{names}\n"
    )
    for spec in (tmp_path, tmp_path / "data.yaml"):
        for split in ("train", "val"):
            data = open_dataset(f"yolo:{spec}", split)
            assert data.classes == ("dog", "big cat")
            assert data.truths[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [dog, dog]", "expected different names"),
        ("names: {0: dog, 2: cat}", "numbered from 0"),
        ("names: []", "expected to be different names"),
        ("names:\n  - [", r"data\.yaml:\d: is not YAML"),
        ('names: ["\\UFFFFFFFF"]', "is not YAML"),
        ('names: ["\\U00110000"]', "is not YAML"),
        ('names: ["\\uD800"]', "expected to be different names"),
        ('names: ["a\\0"]', "expected to be different names"),
        ("just text", "is not a data set description"),
        ("names: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_data_yaml_that_is_none(yolo, tmp_path, text, expected):
    yolo("images/train/a.jpg", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=expected):
        open_dataset(f"yolo:{tmp_path}")


def test_a_yaml_that_points_nowhere(yolo, tmp_path):
    (tmp_path / "data.yaml").write_text("names: [dog]\ntrain: images/elsewhere\n")
    with pytest.raises(DataError, match=r"train is 'images/elsewhere', but .* does not exist"):
        open_dataset(f"yolo:{tmp_path}")


def test_no_class_names(yolo, tmp_path):
    yolo("images/train/a.jpg", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match="does not say what its classes are called"):
        open_dataset(f"yolo:{tmp_path}")
    assert open_dataset(f"yolo:{tmp_path}", classes=["x"]).classes == ("x",)


@pytest.mark.parametrize(
    ("row", "kind", "left"),
    [
        ("1 0.5 0.5 0 0.5", "zero area", None),
        ("1 0.9 0.5 0.4 0.5", "clipped to the image", [44.8, 12, 64, 36]),
        ("1 1.9 0.5 0.4 0.5", "out of bounds", None),
        ("2 0.5 0.5 0.5 0.5", "unknown class", None),
        ("-1 0.5 0.5 0.5 0.5", "unknown class", None),
        ("0.5 0.5 0.5 0.5 0.5", "unknown class", None),
        ("1 0.5 0.5 0.5", "malformed field", None),
        ("1 0.5 0.5 0.5 0.5 0.9", "malformed field", None),
        ("1 0.5 half 0.5 0.5", "malformed field", None),
        ("1 0.5 nan 0.5 0.5", "malformed field", None),
        ("0 0.5 0.5 0.5 0.5", "duplicate entry", None),
    ],
)
def test_dirty_lines_are_named(yolo, tmp_path, row, kind, left):
    file = yolo("images/train/a.jpg", f"0 0.5 0.5 0.5 0.5\n{row}\n")
    data = open_dataset(f"yolo:{tmp_path}")
    assert [(p.path, p.line, p.kind) for p in data.problems.items] == [(file, 2, kind)]
    rest = data.truths[0].boxes[1:]
    assert np.allclose(rest, np.zeros((0, 4)) if left is None else [left])


def test_a_polygon_counts_as_its_box(yolo, tmp_path):
    yolo("images/train/a.jpg", "0 0.25 0.25 0.75 0.25 0.5 0.75\n0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5")
    # of different lengths, so no key points
    assert open_dataset(f"yolo:{tmp_path}").truths[0].boxes.tolist() == [[16, 12, 48, 36], [16, 12, 32, 24]]


def test_an_image_without_labels_is_counted_and_kept(yolo, tmp_path):
    yolo("images/train/a.jpg", None)
    yolo("images/train/b.jpg", "")
    yolo("images/train/c.jpg", "0 0.5 0.5 0.5 0.5")
    data = open_dataset(f"yolo:{tmp_path}")
    assert [len(t.boxes) for t in data.truths] == [0, 0, 1]
    assert data.problems.counts() == {"no label file": 1}
    assert data.left_out().startswith("left out: 1 no label file; the first: ")
    assert data.notes == ()


def test_files_that_cannot_be_read(yolo, tmp_path):
    yolo("images/train/a.jpg", "").write_bytes(b"\xff\xfe\x00")
    yolo("images/train/b.jpg", "")
    yolo("images/train/c.jpg", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "images/train/b.jpg").write_bytes(b"not an image")
    data = open_dataset(f"yolo:{tmp_path}")
    # whose labels cannot be read is not an image without objects
    assert [t.id for t in data.truths] == ["c"]
    assert data.problems.counts() == {"unreadable annotation": 1, "broken image": 1}
    for name in "ac":
        (tmp_path / f"images/train/{name}.jpg").write_bytes(b"not an image")
    with pytest.raises(EmptyDataset, match="3 broken image"):
        open_dataset(f"yolo:{tmp_path}")
