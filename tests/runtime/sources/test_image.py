"""Images: each that can be read, and a named error for those that cannot."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from source_helpers import picture, read_all, read_until_error

from edgedet.contract.errors import EmptyDataset, ImageError, SourceError
from edgedet.contract.frames import Notice
from edgedet.runtime import open_source


def write_images(folder: Path) -> None:
    folder.mkdir()
    for i, ending in enumerate((".jpg", ".png", ".bmp")):
        assert cv2.imwrite(str(folder / f"{i}{ending}"), picture(i))
    (folder / "notes.txt").write_text("not an image")


def test_images_of_a_folder_a_glob_or_one(tmp_path: Path) -> None:
    write_images(tmp_path / "shots")
    folder = open_source(tmp_path / "shots")
    assert (folder.frames, folder.live, folder.fps) == (3, False, None)
    images = read_all(folder)
    assert len(images) == 3
    np.testing.assert_array_equal(images[1], picture(1))  # PNG is lossless
    assert len(read_all(open_source(tmp_path / "shots" / "*.png"))) == 1
    assert len(read_all(open_source(tmp_path / "**" / "*"))) == 3
    assert len(read_all(open_source(tmp_path / "shots" / "2.bmp"))) == 1
    assert len(read_all(open_source(f"file://{tmp_path}/shots/2.bmp"))) == 1


def test_no_images_is_an_error(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "*.jpg"):
        with pytest.raises(EmptyDataset, match="no images"):
            open_source(target)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_truncated_image_is_passed_over_and_named(tmp_path: Path, ending: str) -> None:
    write_images(tmp_path / "shots")
    whole = cv2.imencode(ending, picture(9, (400, 500)))[1].tobytes()
    bad = tmp_path / "shots" / f"0bad{ending}"
    bad.write_bytes(whole[: len(whole) * 2 // 3])
    source = open_source(tmp_path / "shots")
    said: list[Notice] = []
    source.notify = said.append
    good = read_until_error(source, SourceError, f"1 of 4 images could not be read: {bad.name}")
    assert (good, source.lost) == (3, 1)
    assert [n.kind for n in said] == ["damaged"]
    assert f"{bad.name} is truncated" in said[0].text
    with pytest.raises(ImageError, match="is truncated"):
        open_source(bad).read()


def test_a_pipe_among_images_is_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path / "shots")
    os.mkfifo(tmp_path / "shots" / "pipe.jpg")
    source = open_source(tmp_path / "shots")
    assert read_until_error(source, SourceError, r"1 of 4 images could not be read: pipe\.jpg") == 3


def test_images_name_their_files(tmp_path: Path) -> None:
    write_images(tmp_path / "shots")
    source = open_source(tmp_path / "shots")
    files = []
    while source.grab():
        files.append(source.file)
    assert files == [str(p) for p in source.paths] == [str(tmp_path / "shots" / name) for name in NAMES]


NAMES = ("0.jpg", "1.png", "2.bmp")
