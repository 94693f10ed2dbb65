from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.calib.images import CalibrationSet
from edgedet.contract.errors import EmptyDataset
from edgedet.contract.preprocess import preprocess
from edgedet.contract.proposals import RegionInput
from edgedet.contract.spec import Decode, Input, ModelSpec, Proposals, Tensor
from edgedet.data import open_dataset

SPEC = ModelSpec(
    "yolo",
    "detection",
    Input("images", 32, 48, (0.5,) * 3, (0.25,) * 3, resize="letterbox"),
    (Tensor("boxes", "boxes", (None, 9, 4)), Tensor("scores", "scores", (None, 9, 1))),
    Decode("dense"),
    ("thing",),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), rng.integers(0, 256, (60, 40 + i, 3), np.uint8))
    return tmp_path


def test_images_come_as_in_deployment(folder):
    dataset = open_dataset(f"folder:{folder}")
    found = list(CalibrationSet(dataset, SPEC))
    assert len(found) == 10
    for i, x in enumerate(found):
        want, _ = preprocess(dataset.image(i), SPEC.input)
        assert [*x] == ["images"]
        np.testing.assert_array_equal(x["images"], want)


def test_proposals_come_as_in_deployment(folder):
    dataset = open_dataset(f"folder:{folder}")
    spec = SPEC.with_(
        extra_inputs=(Tensor("rois", "proposals", (None, 7, 4)),),
        proposals=Proposals("selective_search", 7, {"most": 5}),
    )
    region_input = RegionInput(spec)
    found = list(CalibrationSet(dataset, spec))
    for i, feed in enumerate(found):
        image = dataset.image(i)
        pixels, transform = preprocess(image, spec.input)
        want = np.ones((7, 4), np.float32)
        assert region_input(image, transform, want) == 5
        np.testing.assert_array_equal(feed["images"], pixels)
        np.testing.assert_array_equal(feed["rois"], want[None])

    class Nothing:
        def __call__(self, image):
            return np.zeros((0, 4), np.float32)

        def identity(self):
            return "nothing"

    assert not any(feed["rois"].any() for feed in CalibrationSet(dataset, spec, proposer=Nothing()))


def test_a_truncated_image_is_counted_and_skipped(folder):
    whole = CalibrationSet(open_dataset(f"folder:{folder}"), SPEC)
    list(whole)
    bad = folder / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:-400])
    some = CalibrationSet(open_dataset(f"folder:{folder}"), SPEC)
    assert sum(1 for _ in some) == 9
    assert len(some.skipped) == 1
    assert "3.jpg" in some.skipped[0]
    assert "9 images" in some.describe()
    assert some.describe() != whole.describe()


def test_the_hash_is_of_the_pixels(folder):
    one, two = (CalibrationSet(open_dataset(f"folder:{folder}"), SPEC) for _ in range(2))
    list(one), list(two), list(two)
    assert one.describe() == two.describe()


def test_spread_and_held_out(folder):
    some = CalibrationSet(open_dataset(f"folder:{folder}"), SPEC, limit=4)
    assert len(some) == 4
    assert some.indices == [0, 2, 5, 7]
    assert set(some.held_out).isdisjoint(some.indices)
    assert len(some.held_out) == 6
    frames, held_out = some.frames(3)
    assert held_out
    assert set(frames) <= set(some.held_out)
    everything = CalibrationSet(open_dataset(f"folder:{folder}"), SPEC)
    assert everything.frames(100) == (list(range(10)), False)


def test_pictures_that_show_nothing_are_said(folder, tmp_path_factory):
    def doubts(images: list[np.ndarray]) -> str:
        path = tmp_path_factory.mktemp("set")
        for i, image in enumerate(images):
            cv2.imwrite(str(path / f"{i}.png"), image)
        some = CalibrationSet(open_dataset(f"folder:{path}"), SPEC)
        assert sum(1 for _ in some) == len(images)
        return some.doubts()

    rng = np.random.default_rng(0)
    real = [cv2.imread(str(p)) for p in sorted(folder.iterdir())]
    dark = [rng.integers(0, 4, (40, 60, 3), np.uint8) for _ in range(24)]
    grey = [np.full((40, 60, 3), (10, 90, 200), np.uint8)] * 3
    assert doubts(real) == doubts(real[:1]) == ""
    assert doubts(real[:6] + dark[:4]) == ""
    assert doubts(dark) == "24 of 24 calibration images show nothing (one colour all over)"
    assert doubts(real[:2] + grey) == "3 of 5 calibration images show nothing (one colour all over)"
    assert doubts([real[0]] * 9 + [real[1]]) == "only 2 of 10 calibration images differ"


def test_an_empty_folder(tmp_path):
    with pytest.raises(EmptyDataset):
        open_dataset(f"folder:{tmp_path}")
