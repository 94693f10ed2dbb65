"""COCO JSON: boxes, categories, crowds, masks, and files that are wrong in every way we know."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgedet.contract.errors import AnnotationError, DataError, EmptyDataset, ImageError, UnknownName
from edgedet.data import open_dataset


class Coco:
    """A COCO file being written; `open` saves and opens it."""

    def __init__(self, root, image) -> None:
        self.root, self.write_image = root, image
        self.raw = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }

    def image(self, key=1, name="a.jpg", width=64, height=48):
        self.write_image(self.root / "images" / name)
        self.raw["images"].append({"id": key, "file_name": name, "width": width, "height": height})

    def annotation(self, bbox, *, image=1, category=7, **more):
        entry = {"id": len(self.raw["annotations"]), "image_id": image, "category_id": category, "bbox": bbox}
        self.raw["annotations"].append(entry | more)

    def save(self):
        file = self.root / "annotations" / "instances_train2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(self.raw))
        return file

    def open(self, **options):
        return open_dataset(f"coco:{self.save()}", **options)


@pytest.fixture
def coco(tmp_path, image) -> Coco:
    made = Coco(tmp_path, image)
    made.image()
    return made


@pytest.fixture
def labelled(coco) -> Coco:
    """With one object: a data set without any is refused."""
    coco.annotation([2, 2, 5, 5])
    return coco


def test_boxes_categories_and_crowds(coco):
    coco.annotation([10, 20, 30.5, 8], category=7)
    coco.annotation([0, 0, 64, 48], category=3, iscrowd=1)
    data = coco.open()
    assert data.classes == ("cat", "dog")  # by id
    truth = data.truths[0]
    assert truth.boxes.tolist() == [[10, 20, 40.5, 28], [0, 0, 64, 48]]
    assert truth.labels.tolist() == [1, 0]
    assert truth.ignore.tolist() == [False, True]
    assert len(data.problems) == 0
    assert data.load(0).image.shape == (48, 64, 3)


def test_an_image_without_objects_stays(coco):
    coco.image(2, "b.jpg")
    coco.annotation([1, 1, 5, 5])
    assert [len(t.boxes) for t in coco.open().truths] == [1, 0]


@pytest.mark.parametrize("layout", ["images", "train2017", "images/train2017", "annotations", "."])
def test_where_the_images_may_lie(labelled, layout):
    target = labelled.root / layout
    target.mkdir(parents=True, exist_ok=True)
    (labelled.root / "images" / "a.jpg").rename(target / "a.jpg")
    assert len(labelled.open()) == 1


@pytest.mark.parametrize("split", ["train", "train2017"])
def test_a_folder_and_a_split(labelled, split):
    labelled.save()
    assert len(open_dataset(f"coco:{labelled.root}", split)) == 1
    with pytest.raises(UnknownName, match=r"no split of .* is named 'trian2017'\. Did you mean 'train2017'"):
        open_dataset(f"coco:{labelled.root}", "trian2017")


def test_two_files_fit(coco):
    coco.save().with_name("instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match="has several train splits"):
        open_dataset(f"coco:{coco.root}", "train")


def test_chosen_classes(coco):
    coco.annotation([1, 1, 5, 5], category=7)
    coco.annotation([1, 1, 5, 5], category=3)
    data = coco.open(classes=["dog"])
    assert data.classes == ("dog",)
    assert data.truths[0].labels.tolist() == [0]
    assert data.problems.counts() == {"unknown class": 1}


def test_two_ids_of_one_name_are_one_class(coco):
    coco.raw["categories"].append({"id": 9, "name": "dog"})
    coco.annotation([1, 1, 5, 5], category=9)
    data = coco.open()
    assert data.classes == ("cat", "dog")
    assert data.truths[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("bbox", "more", "kind", "left"),
    [
        ([1, 1, 0, 5], {}, "zero area", None),
        ([1, 1, 5, -5], {}, "zero area", None),
        ([60, 40, 10, 20], {}, "clipped to the image", [60, 40, 64, 48]),
        ([100, 10, 5, 5], {}, "out of bounds", None),
        ([1, 1, 5], {}, "malformed field", None),
        ([1, 1, "5", 5], {}, "malformed field", None),
        ([1, 1, float("nan"), 5], {}, "malformed field", None),
        (None, {}, "malformed field", None),
        ([1, 1, 5, 5], {"category": 99}, "unknown class", None),
        ([1, 1, 5, 5], {"category": "dog"}, "unknown class", None),
        ([1, 1, 5, 5], {"category": [7]}, "unknown class", None),
        ([1, 1, 5, 5], {"image": 2}, "unknown image id", None),
        ([1, 1, 5, 5], {"image": [1]}, "unknown image id", None),
    ],
)
def test_dirty_annotations(coco, bbox, more, kind, left):
    coco.annotation([2, 2, 5, 5])
    coco.annotation(bbox, **more)
    data = coco.open()
    assert data.problems.counts() == {kind: 1}
    problem = data.problems.items[0]
    assert problem.path.name == "instances_train2017.json"
    assert "annotations[1]" in problem.detail
    assert data.truths[0].boxes[1:].tolist() == ([] if left is None else [left])


@pytest.mark.parametrize("entry", [None, 5, "x", [], {}, {"id": True, "file_name": "b.jpg"}, {"id": 3}])
def test_dirty_images_and_categories(labelled, entry):
    labelled.raw["images"].append(entry)
    labelled.raw["categories"].append(entry)
    labelled.raw["annotations"].append(entry)
    data = labelled.open()
    assert len(data) == 1
    assert data.problems.counts() == {"malformed field": 3}


def test_missing_and_repeated_images(labelled):
    labelled.image(2, "b.jpg")
    labelled.image(2, "c.jpg")
    (labelled.root / "images" / "b.jpg").unlink()
    data = labelled.open()
    assert [t.id for t in data.truths] == ["a"]
    assert data.problems.counts() == {"duplicate entry": 1, "missing image": 1}


def test_no_image_at_all(coco):
    (coco.root / "images" / "a.jpg").unlink()
    with pytest.raises(EmptyDataset, match=r"1 missing image"):
        coco.open()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [],\n"annotations": [}', r"instances\.json:2: is not JSON"),
        ("[]", "is not a COCO instances file"),
        ('{"images": []}', "is not a COCO instances file"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_not_a_coco_file(tmp_path, text, expected):
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(AnnotationError, match=expected):
        open_dataset(f"coco:{file}")


def test_masks(coco):
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    coco.annotation([10, 10, 10, 10], segmentation=[square])
    coco.annotation([0, 0, 2, 48], iscrowd=1, segmentation={"size": [48, 64], "counts": [0, 96, 48 * 62]})
    coco.annotation([10, 10, 30, 10], segmentation=[square, [30, 10, 40, 10, 40, 20, 30, 20]])
    masks = coco.open().masks(0)
    assert masks.shape == (3, 48, 64)
    assert masks.dtype == bool
    assert masks[0].sum() == 100
    assert masks[0, 10:20, 10:20].all()
    assert masks[1].sum() == 96
    assert masks[1, :, :2].all()  # runs go down the columns
    assert masks[2].sum() == 200


def test_masks_stay_with_their_boxes(coco):
    coco.annotation([1, 1, 0, 5], segmentation=[[1, 1, 1, 6, 1, 6]])  # dropped
    coco.annotation([10, 10, 10, 10], segmentation=[[10, 10, 20, 10, 20, 20, 10, 20]])
    data = coco.open()
    assert data.truths[0].boxes.tolist() == [[10, 10, 20, 20]]
    assert data.masks(0)[0, 10:20, 10:20].all()


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2]], "x", {"counts": 5}, [["a"] * 6]])
def test_without_a_segmentation_there_are_boxes_only(coco, segmentation):
    coco.annotation([10, 10, 10, 10], segmentation=segmentation)
    data = coco.open()
    assert len(data.truths[0].boxes) == 1
    with pytest.raises(DataError, match="has no instance masks"):
        data.masks(0)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (
            {"size": [10, 10], "counts": [0, 100]},
            r"is for \(height, width\) \[10, 10\], the image has \[48, 64\]",
        ),
        ({"size": [48, 64], "counts": [0, 100]}, "does not fill the image of 64x48"),
        ({"size": [48, 64], "counts": [-1, 48 * 64 + 1]}, "does not fill the image"),
        ({"size": [48, 64], "counts": [10**30]}, "does not fill the image"),
        ({"size": [48, 64], "counts": ["a"]}, "does not fill the image"),
        ({"size": [48, 64], "counts": "abc\u1234"}, "does not fill the image"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "lies far outside the image"),
    ],
)
def test_masks_that_cannot_be(coco, segmentation, expected):
    coco.annotation([0, 0, 2, 2], segmentation=segmentation)
    with pytest.raises(AnnotationError, match=r"a segmentation of a\.jpg " + expected):
        coco.open().masks(0)


@pytest.mark.parametrize("seed", range(4))
def test_packed_run_lengths_as_pycocotools_writes_them(coco, seed):
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    wanted = rng.random((48, 64)) < (0.5, 0.02, 1.0, 0.0)[seed]
    packed = mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
    coco.annotation([0, 0, 2, 2], segmentation={"size": [48, 64], "counts": packed["counts"].decode()})
    assert np.array_equal(coco.open().masks(0)[0], wanted)


def test_sizes_that_no_image_has(labelled):
    """The image's own counts then."""
    for k, width in enumerate((0, -5, 10**30, True, 6.5), 10):
        labelled.image(k, f"{k}.jpg", width=width)
    assert [t.size for t in labelled.open().truths] == [(48, 64)] * 6


def test_real_coco(shared):
    data = open_dataset(f"coco:{shared}/coco_mini", "train")
    assert (len(data), len(data.classes), len(data.problems)) == (128, 80, 0)
    assert sum(len(t.boxes) for t in data.truths) == 939
    assert sum(int(t.ignore.sum()) for t in data.truths) == 10
    crowd = next(i for i, t in enumerate(data.truths) if t.ignore.any())
    sample, masks = data.load(crowd), data.masks(crowd)
    assert masks.shape == (len(sample.boxes), *sample.image.shape[:2])
    # a mask fills its box: its extent is the box's, to a pixel or two
    for box, mask in zip(sample.boxes, masks, strict=True):
        ys, xs = np.nonzero(mask)
        extent = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(extent - box).max() <= 2


def test_masks_of_another_size_than_the_image_are_not_made(coco):
    coco.raw["images"][0] |= {"width": 10_000, "height": 10_000}
    for _ in range(50):  # 5 GB of masks
        coco.annotation([10, 10, 10, 10], segmentation=[[10, 10, 20, 10, 20, 20]])
    with pytest.raises(ImageError, match="is 64x48, but its labels are for 10000x10000"):
        coco.open().masks(0)
