"""Damaged files: whatever they hold, the answer is a named error, or a problem that is counted.

Seeded, so that what fails can be seen again: one mutation is `mutated(data, kind, seed)`.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import EdgedetError
from edgedet.contract.image_files import image_size, read_image, read_stored
from edgedet.data import open_dataset

SEEDS = 40
"""Mutations of each file."""

NASTY = [
    b"", b"\0", b"-1", b"0", b"1e999", b"nan", b"Infinity", b"9" * 5000, b"9" * 30, b"1e-300", b"true",
    b"null",
    b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000, b"<a>" * 3000, b"- " * 3000, b"\xff\xfe", b"\xef\xbb\xbf",
    b'"\\ud800"', b"\x1b[2J", b"../" * 400, b"x" * 5000, b"*a", b"&a ", b"!!python/name:os.system ",
    b"? ", b": ",
    b"\xe2\x80\xa8", b"255: void", b"7-3: x", b"<!ENTITY a 'b'>", b"&a;", b"]]>", b"kpt_shape: [4, 2]\n",
]  # fmt: skip
"""What replaces a word of a text file."""


def mutated(data: bytes, kind: str, seed: int) -> bytes:
    """`data` with one to four seeded changes; kind "text": words and lines too, "binary": bytes only."""
    rng = np.random.default_rng(seed)
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(changed) + 1))
        span = int(rng.integers(1, 64))
        choice = int(rng.integers(0, 8 if kind == "text" else 5))
        if choice == 0 and at < len(changed):  # other bits
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif choice == 1:  # a hole
            del changed[at : at + span]
        elif choice == 2:  # twice
            changed[at:at] = changed[at : at + span]
        elif choice == 3:  # the end is missing
            del changed[max(at, 1) :]
        elif choice == 4:  # noise
            noise = rng.integers(0, 256, span, np.uint8).tobytes()
            changed[at : at + span] = noise
        else:  # another word in place of one
            words = [w for w in bytes(changed).replace(b'"', b" ").replace(b",", b" ").split() if len(w) < 50]
            if words:
                old = words[int(rng.integers(0, len(words)))]
                changed = bytearray(bytes(changed).replace(old, NASTY[int(rng.integers(0, len(NASTY)))], 1))
    return bytes(changed)


def used(spec: str, split: str) -> None:
    """Everything that is asked of a data set; named errors are fine, others are not."""
    try:
        data = open_dataset(spec, split)
    except EdgedetError:
        return
    assert isinstance(data.left_out() + data.summary() + data.fingerprint(), str)
    assert not any(c in str(p) for p in data.problems.items for c in "\x1b\n\0")
    for i in range(len(data)):
        for ask in (data.load, data.class_map if data.semantic else data.masks):
            try:
                ask(i)
            except EdgedetError:
                continue


def files_of(root: Path, image) -> dict[str, tuple[str, str, Path]]:
    """A small data set of each kind: {name: (spec, split, the file that is damaged)}."""
    for name in ("a", "b"):
        for folder in ("voc/JPEGImages", "yolo/images/train", "coco/images", "masks/images"):
            image(root / folder / f"{name}.jpg")
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    thing = f"<object><name>dog</name><difficult>0</difficult>{box}</object>"
    xml = f"<annotation><size><width>64</width><height>48</height></size>{thing}{thing}</annotation>"
    texts = {
        "voc/Annotations/a.xml": f"<?xml version='1.0' encoding='utf-8'?>\n{xml}",
        "voc/Annotations/b.xml": xml,
        "voc/ImageSets/Main/train.txt": "a 1\nb -1\n",
        "yolo/labels/train/a.txt": "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.4 0.1 0.4 0.4\n",
        "yolo/labels/train/b.txt": "1 0.5 0.5 0.25 0.5\n",
        "yolo/list.txt": "images/train/a.jpg\nimages/train/b.jpg\n",
        "yolo/data.yaml": "path: .\ntrain: [images/train]\nval: list.txt\nnames:\n  0: dog\n  1: cat\n",
        "names/classes.txt": "dog\ncat\n",
        "masks/classes.txt": "ground\nthing\n2-9: thing\n255: void\n",
        "masks/train.txt": "a.jpg\nb\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copytree(root / "yolo/images", root / "names/images")
    shutil.copytree(root / "yolo/labels", root / "names/labels")
    square = [2, 3, 20, 3, 20, 30, 2, 30]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 18, 27], "segmentation": [square]},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [2, 3, 18, 27], "iscrowd": 1}
        | {"segmentation": {"size": [48, 64], "counts": [0, 96, 48 * 62]}},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [0, 0, 2, 48]}
        | {"segmentation": {"size": [48, 64], "counts": "0P3PlN"}},
    ]
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 64, "height": 48} for i, n in ((1, "a"), (2, "b"))]
    categories = [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}]
    raw = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/instances.json").write_text(json.dumps(raw))
    (root / "masks/masks").mkdir()
    for name in ("a", "b"):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:20, 10:30] = 1
        cv2.imwrite(str(root / f"masks/masks/{name}.png"), mask)
    return {
        "VOC XML": (f"voc:{root}/voc", "train", root / "voc/Annotations/a.xml"),
        "VOC list": (f"voc:{root}/voc", "train", root / "voc/ImageSets/Main/train.txt"),
        "VOC image": (f"voc:{root}/voc", "train", root / "voc/JPEGImages/a.jpg"),
        "YOLO rows": (f"yolo:{root}/yolo", "train", root / "yolo/labels/train/a.txt"),
        "YOLO list": (f"yolo:{root}/yolo", "val", root / "yolo/list.txt"),
        "YOLO yaml": (f"yolo:{root}/yolo", "train", root / "yolo/data.yaml"),
        "YOLO names": (f"yolo:{root}/names", "train", root / "names/classes.txt"),
        "COCO JSON": (f"coco:{root}/coco/instances.json", "train", root / "coco/instances.json"),
        "mask names": (f"masks:{root}/masks", "train", root / "masks/classes.txt"),
        "mask list": (f"masks:{root}/masks", "train", root / "masks/train.txt"),
        "mask": (f"masks:{root}/masks", "train", root / "masks/masks/a.png"),
    }


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    from data_fixtures import write_image

    return files_of(tmp_path_factory.mktemp("damaged"), write_image)


KINDS = [
    "VOC XML", "VOC list", "VOC image", "YOLO rows", "YOLO list", "YOLO yaml", "YOLO names", "COCO JSON",
    "mask names", "mask list", "mask",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_of_a_data_set(sets, kind):
    spec, split, file = sets[kind]
    whole = file.read_bytes()
    used(spec, split)  # and whole, it is read
    assert len(open_dataset(spec, split).truths) == 2
    try:
        for seed in range(SEEDS):
            file.write_bytes(mutated(whole, "binary" if file.suffix in (".png", ".jpg") else "text", seed))
            used(spec, split)
    finally:
        file.write_bytes(whole)


FLAGS = {
    "a.jpg": [], "progressive.jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts.jpg": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    "a.png": [], "a.bmp": [], "a.webp": [], "a.tif": [], "plain.tif": [cv2.IMWRITE_TIFF_COMPRESSION, 1],
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_a_damaged_image(tmp_path, name):
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (64, 48), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / name
    cv2.imwrite(str(path), picture, FLAGS[name])
    whole = path.read_bytes()
    if name == "a.jpg":  # with an EXIF segment
        exif = (
            b"Exif\0\0MM\0*"
            + struct.pack(">I", 8)
            + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0)
            + b"\0" * 4
        )
        whole = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]
    for seed in range(SEEDS):
        # half of them within the headers
        head = whole[:200] if seed % 2 else whole
        path.write_bytes(mutated(head, "binary", seed) + whole[len(head) :])
        for read in (read_image, read_stored, image_size):
            try:
                assert read(path) is not None
            except EdgedetError:
                continue


def laughs(levels: int) -> str:
    """A data.yaml of a few lines that stands for 10 to the power of `levels` names."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join([*rows, f"names: *a{levels - 1}"])


@pytest.mark.parametrize(
    "text",
    [
        laughs(9),
        "names: &a [*a]",
        "a: &a {x: y}\nb: {<<: [*a, *a]}\nnames: [dog]",
        "names: " + "[" * 100_000,
        "names: " + "{a: " * 20_000,
        "names: [dog]\nnames: [cat]",
        "names: {0: dog, 0: cat}",
        "names: !!python/object/apply:os.getcwd []",
        "names: [!!binary aGk=]",
        "? [a]\n: b\nnames: [dog]",
        "names: [{a: b}, dog]",
        "names: 2020-13-45",
        "names: [dog]\nx: 1" + "0" * 2_000_000,
    ],
)
def test_a_data_yaml_that_would_hang_or_fool(tmp_path, image, text):
    image(tmp_path / "images/train/a.jpg")
    (tmp_path / "images/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(EdgedetError, match=r"data\.yaml"):
        open_dataset(f"yolo:{tmp_path}")


def test_names_in_a_data_yaml_are_texts(tmp_path, image):
    image(tmp_path / "images/train/a.jpg")
    (tmp_path / "images/train/a.txt").write_text("3 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [no, 7, 2020-13-45, 1e3, ~, 'a: b']\nnc: 6\n")
    assert open_dataset(f"yolo:{tmp_path}").classes == ("no", "7", "2020-13-45", "1e3", "~", "a: b")
