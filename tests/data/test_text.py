"""Text files as editors of all kinds write them, and lists of names."""

from __future__ import annotations

import codecs
import os

import pytest

from edgedet.contract.errors import AnnotationError
from edgedet.data import open_dataset
from edgedet.data.lists import listed_names
from edgedet.data.sample import Problems
from edgedet.data.text import class_names, lines, read_text

ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "CRLF and a mark": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"),
    "utf-16 big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.fixture(params=ENCODINGS)
def encode(request):
    """A function text -> bytes as some editor saves it."""
    return ENCODINGS[request.param]


def test_lines(tmp_path, encode):
    file = tmp_path / "a.txt"
    file.write_bytes(encode("hund\nKätzchen klein\n\n  猫\x0b猫 \u2028x\n"))
    # only line ends end a line
    assert lines(file) == ["hund", "Kätzchen klein", "", "猫\x0b猫 \u2028x", ""]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"dog\nK\xe4tzchen\n", r"a\.txt:2: is not UTF-8 text: .* at byte 5\. Save it as UTF-8"),
        ("dog\ncat\n".encode("utf-16-le"), "holds null bytes"),
        (codecs.BOM_UTF16_LE + b"\x00", "is not UTF-16-LE text"),
    ],
)
def test_what_cannot_be_decoded_is_said(tmp_path, data, expected):
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    with pytest.raises(AnnotationError, match=expected):
        read_text(file)


def test_names_of_classes(tmp_path):
    file = tmp_path / "classes.txt"
    assert class_names(["a", "", "A", "-", "_"], file) == ("a", "A", "-", "_")
    with pytest.raises(AnnotationError, match=r":3: names a class twice: 'a' stands in line 1 too"):
        class_names(["a", "b", "a"], file)
    with pytest.raises(AnnotationError, match="names no class"):
        class_names([""], file)


@pytest.mark.parametrize(
    ("rows", "known", "found"),
    [
        (["scan (1)", "WhatsApp Image 10.00.00"], {"scan (1)", "WhatsApp Image 10.00.00"}, None),
        (["a.jpg", "b.PNG", "c.xml"], {"a", "b", "c"}, ["a", "b", "c"]),
        (["JPEGImages/a.jpg", "x\\b"], {"a", "b"}, ["a", "b"]),
        (["a.jpg"], {"a", "a.jpg"}, ["a.jpg"]),  # as it stands first
        (
            ["000012 -1", "000017  1", "000019\t0"],
            {"000012", "000017", "000019"},
            ["000012", "000017", "000019"],
        ),
        (["scan 1", "scan 0"], {"scan 1", "scan 0", "scan"}, None),  # names, not flags
        (["scan 1 -1", "scan 0 1"], {"scan 1", "scan 0"}, ["scan 1", "scan 0"]),
        (["scan 1", "plain"], {"scan 1", "plain"}, None),
        (["gone 1.jpg", "v1.2"], set(), ["gone 1", "v1.2"]),
        (["../../etc/passwd"], {"a"}, ["passwd"]),  # never a place outside
    ],
)
def test_a_line_of_a_list_is_a_whole_name(tmp_path, encode, rows, known, found):
    file = tmp_path / "train.txt"
    file.write_bytes(encode("".join(f"{row}\n" for row in rows)))
    assert listed_names(file, known, Problems(), flags=True) == (rows if found is None else found)


def test_without_a_column_of_flags_there_are_none(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("scan 1\n")
    assert listed_names(file, {"scan"}, Problems()) == ["scan 1"]


def test_every_text_of_a_data_set_is_decoded_alike(tmp_path, image, voc, obj, encode):
    """The first class, image and object are those that a byte order mark would eat."""
    root = tmp_path / "yolo"
    for name in "ab":
        image(root / "photos" / f"{name}.jpg")
        (root / "photos" / f"{name}.txt").write_bytes(encode("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.5 0.5\n"))
    (root / "train.txt").write_bytes(encode("photos/a.jpg\nphotos/b.jpg\n"))
    for names, text in (
        ("classes.txt", "hund\nKätzchen\n"),
        ("data.yaml", "names: [hund, Kätzchen]\nval: train.txt"),
    ):
        (root / names).write_bytes(encode(text))
        for split in ("train", "val" if names == "data.yaml" else "train"):
            data = open_dataset(f"yolo:{root}", split)
            assert data.classes == ("hund", "Kätzchen")
            assert [t.labels.tolist() for t in data.truths] == [[0, 1], [0, 1]]
            assert data.left_out() == ""

    for name in "ab":
        voc.add(name, obj("cat", 2, 2, 9, 9))
    (voc.root / "ImageSets/Main/train.txt").write_bytes(encode("a\nb\n"))
    assert [t.id for t in open_dataset(f"voc:{voc.root}").truths] == ["a", "b"]


def test_coco_and_masks_are_decoded_alike(tmp_path, image, encode):
    import json

    import cv2
    import numpy as np

    image(tmp_path / "coco" / "a.jpg")
    raw = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "Kätzchen"}],
    }
    (tmp_path / "coco" / "a.json").write_bytes(encode(json.dumps(raw, ensure_ascii=False, indent=1)))
    data = open_dataset(f"coco:{tmp_path / 'coco' / 'a.json'}")
    assert (data.classes, data.truths[0].labels.tolist()) == (("Kätzchen",), [0])

    image(tmp_path / "masks" / "images" / "a b.jpg")
    (tmp_path / "masks" / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "masks" / "a b.png"), np.ones((48, 64), np.uint8))
    (tmp_path / "masks" / "classes.txt").write_bytes(encode("ground\nKätzchen\n"))
    (tmp_path / "masks" / "train.txt").write_bytes(encode("a b\n"))
    data = open_dataset(f"masks:{tmp_path / 'masks'}")
    assert (data.classes, len(data), int(data.class_map(0).max())) == (("ground", "Kätzchen"), 1, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_no_fifo_is_waited_for(tmp_path, image, voc, obj):
    root = tmp_path / "yolo"
    (root / "classes.txt").parent.mkdir()
    (root / "classes.txt").write_text("dog\n")
    image(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    image(root / "images" / "train" / "b.jpg")
    os.mkfifo(root / "labels" / "train" / "b.txt")
    data = open_dataset(f"yolo:{root}")
    assert [t.id for t in data.truths] == ["a"]
    assert "b.txt: unreadable annotation: cannot be read: it is a fifo" in data.left_out()
    for name, split in (("classes.txt", "train"), ("list.txt", "list"), ("data.yaml", "train")):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)
        if name == "data.yaml":
            continue  # no file: as if it were not there
        with pytest.raises(AnnotationError, match="it is a fifo, not a regular file"):
            open_dataset(f"yolo:{root}", split)
        (root / name).unlink()
        (root / "classes.txt").write_text("dog\n")
    voc.add("a", obj("cat", 2, 2, 9, 9))
    voc.annotate("b", "")
    (voc.root / "Annotations/b.xml").unlink()
    os.mkfifo(voc.root / "Annotations/b.xml")
    assert open_dataset(f"voc:{voc.root}").problems.counts() == {"unreadable annotation": 1}
