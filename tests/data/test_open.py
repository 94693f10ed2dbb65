"""open_dataset's spec strings, folders, and what every data set has."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgedet.contract.errors import DataError, EmptyDataset, UnknownName, UsageError
from edgedet.data import open_dataset


@pytest.mark.parametrize("spec", ["", "voc", "voc:", ":x", "C:\\data"])
def test_no_spec(spec):
    with pytest.raises((UsageError, UnknownName)):
        open_dataset(spec)


def test_unknown_kind():
    with pytest.raises(UnknownName, match=r"no data kind is named 'cocoo'\. Did you mean 'coco'"):
        open_dataset("cocoo:somewhere")


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo", "voc-seg", "masks", "folder"])
def test_a_missing_path_suggests_the_close_one(tmp_path, kind):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=rf"{kind}:.*fotos.* does not exist. Did you mean .*photos"):
        open_dataset(f"{kind}:{tmp_path}/fotos/inside")


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo"])
def test_a_folder_of_another_format(tmp_path, kind):
    with pytest.raises(DataError, match=f"{kind}:.* is not laid out like"):
        open_dataset(f"{kind}:{tmp_path}")


def test_folder(tmp_path, image):
    image(tmp_path / "b.jpg")
    image(tmp_path / "inner" / "a.png", 32, 16)
    image(tmp_path / ".cache" / "c.png")
    (tmp_path / "notes.txt").write_text("x")
    data = open_dataset(f"folder:{tmp_path}")
    assert [t.path.name for t in data.truths] == ["b.jpg", "a.png"]
    assert data.labelled is False
    assert data.load(1).image.shape == (16, 32, 3)
    assert data.load(1).boxes.shape == (0, 4)
    assert len(open_dataset(f"folder:{tmp_path / 'b.jpg'}")) == 1


def test_an_empty_folder(tmp_path):
    with pytest.raises(EmptyDataset, match="holds no images"):
        open_dataset(f"folder:{tmp_path}")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="is a file, and no image"):
        open_dataset(f"folder:{tmp_path / 'a.txt'}")


def test_fingerprint_is_of_the_labels_not_the_place(voc, obj, tmp_path):
    file = voc.add("a", obj("cat", 2, 2, 9, 9))
    one = open_dataset(f"voc:{voc.root}").fingerprint()
    assert len(one) == 64
    moved = voc.root.rename(tmp_path / "VOC2007")
    assert open_dataset(f"voc:{moved}").fingerprint() == one
    file = moved / "Annotations" / file.name
    for change in (("<xmax>9", "<xmax>8"), ("cat", "dog"), ("<difficult>0", "<difficult>1")):
        text = file.read_text()
        file.write_text(text.replace(*change))
        assert open_dataset(f"voc:{moved}").fingerprint() != one
        file.write_text(text)


def test_masks_where_there_are_none(voc, obj):
    voc.add("a", obj("cat", 2, 2, 9, 9))
    with pytest.raises(DataError, match=r"has no instance masks for a\.jpg"):
        open_dataset(f"voc:{voc.root}").masks(0)


def test_no_torch():
    code = (
        "import sys, edgedet.data, edgedet.data.voc, edgedet.data.coco, edgedet.data.yolo_txt,"
        "edgedet.data.folder, edgedet.data.masks, edgedet.evaluation, edgedet.cli.eval;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_sets_of_the_same_classes_are_one(voc, obj, tmp_path):
    from edgedet.contract.errors import DataError
    from edgedet.data import open_datasets

    voc.add("a", obj("dog", 11, 11, 40, 40))
    other = type(voc)(tmp_path / "VOC2012X")
    other.add("b", obj("cat", 1, 1, 20, 20), obj("dog", 5, 5, 30, 30))
    specs = [f"voc:{voc.root}", f"voc:{other.root}"]
    data = open_datasets(specs)
    assert data.name == "voc:VOC2007 train + voc:VOC2012X train"
    assert [t.id for t in data.truths] == ["a", "b"]
    assert [[data.classes[k] for k in t.labels] for t in data.truths] == [["dog"], ["cat", "dog"]]
    assert open_datasets(specs[:1]).fingerprint() != data.fingerprint()
    strange = type(voc)(tmp_path / "own")
    strange.add("c", obj("gnu", 1, 1, 20, 20))
    with pytest.raises(DataError, match="'gnu', which voc:VOC2007 train has not"):
        open_datasets([specs[0], f"voc:{strange.root}"])


def test_sets_that_number_their_classes_otherwise(tmp_path, image):
    from edgedet.data import open_datasets

    for name, names in (("one", "dog\ncat\n"), ("two", "cat\ndog\n")):
        image(tmp_path / name / "images/train/a.jpg")
        (tmp_path / name / "labels/train").mkdir(parents=True)
        (tmp_path / name / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (tmp_path / name / "classes.txt").write_text(names)
    data = open_datasets([f"yolo:{tmp_path / 'one'}", f"yolo:{tmp_path / 'two'}"])
    assert [data.classes[int(t.labels[0])] for t in data.truths] == ["dog", "cat"]
    with pytest.raises(DataError, match="another kind of truth"):
        open_datasets([f"yolo:{tmp_path / 'one'}", f"folder:{tmp_path / 'two'}"])


def test_a_set_with_some_of_the_classes_in_another_order_is_taken_by_name(voc, obj, image, tmp_path):
    from edgedet.data import open_datasets

    voc.add("a", obj("cat", 11, 11, 40, 40))
    image(tmp_path / "images" / "b.jpg")
    coco = {
        "images": [{"id": 1, "file_name": "b.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": c, "bbox": [2, 2, 20, 20]} for k, c in enumerate((1, 2))
        ],
        "categories": [{"id": 1, "name": "sheep"}, {"id": 2, "name": "bird"}],
    }
    file = tmp_path / "some.json"
    file.write_text(json.dumps(coco))
    data = open_datasets([f"voc:{voc.root}", f"coco:{file}"])
    assert data.classes == open_dataset(f"voc:{voc.root}").classes
    assert [[data.classes[k] for k in t.labels] for t in data.truths] == [["cat"], ["sheep", "bird"]]
