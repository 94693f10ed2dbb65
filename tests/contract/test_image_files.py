"""Images: what is whole is read, what is not is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import ImageError
from edgedet.contract.image_files import image_size, list_images, read_image


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp"])
def test_size_and_pixels(tmp_path, image, ending):
    path = image(tmp_path / f"a{ending}", 64, 48)
    assert image_size(path) == (48, 64)
    pixels = read_image(path)
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, cv2.imread(str(path)))


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_image_is_refused(tmp_path, image, ending, share):
    path = image(tmp_path / f"a{ending}", 320, 240)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"a\{ending} is truncated|cannot be decoded"):
        read_image(path)


def test_a_thumbnails_end_mark_does_not_count(tmp_path, image):
    path = image(tmp_path / "a.jpg", 320, 240)
    thumbnail = image(tmp_path / "t.jpg", 16, 16).read_bytes()
    data = path.read_bytes()
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + comment + data[2:]
    path.write_bytes(whole)
    assert read_image(path).shape == (240, 320, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def test_bytes_after_the_end_are_allowed(tmp_path, image):
    path = image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert read_image(path).shape == (48, 64, 3)


def test_progressive_jpeg(tmp_path):
    path = tmp_path / "p.jpg"
    picture = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    assert read_image(path).shape == (60, 80, 3)
    assert image_size(path) == (60, 80)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def with_orientation(data: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment that says how to turn it."""
    tiff = (
        b"MM\x00*"
        + struct.pack(">I", 8)
        + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
        + b"\0" * 4
    )
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_orientation_follows_the_labels(tmp_path, image):
    path = image(tmp_path / "a.jpg", 64, 48)
    path.write_bytes(with_orientation(path.read_bytes(), 6))
    assert read_image(path).shape == (64, 48, 3)
    assert image_size(path) == (64, 48)
    assert read_image(path, size=(64, 48)).shape == (64, 48, 3)
    assert read_image(path, size=(48, 64)).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="is 48x64, but its labels are for 50x50"):
        read_image(path, size=(50, 50))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "Cannot read the image .*a.jpg: No such file"),
        (b"", "a.jpg is empty"),
        (b"hello", "cannot be decoded"),
        (b"\xff\xd8\xff\xd9", "cannot be decoded"),
        (b"\xff\xd8", "truncated"),
    ],
)
def test_no_image(tmp_path, content, expected):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=expected):
        read_image(path)
    with pytest.raises(ImageError):
        image_size(path)


def test_list_images(tmp_path, image):
    for name in ("b.PNG", "a.jpg", ".hidden.jpg"):
        image(tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_headers_agree_with_pixels_on_real_images(shared: Path):
    files = [
        *sorted((shared / "bccd/JPEGImages").iterdir())[::40],
        *sorted((shared / "camvid/val").iterdir())[::30],
    ]
    assert len(files) > 10
    for path in files:
        assert image_size(path) == read_image(path).shape[:2]
