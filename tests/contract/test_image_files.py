"""Images: what is whole is read, what is not is refused by name."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import ImageError
from edgedet.contract.image_files import image_size, list_images, may_have, read_image, read_stored


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


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def claiming(ending: str, data: bytes, width: int, height: int) -> bytes:
    """An image file whose header says another size."""
    if ending in (".jpg", ".prog.jpg"):
        at = data.index(b"\xff\xc2" if ending == ".prog.jpg" else b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if ending == ".png":
        return data[:8] + png_header(width, height) + data[33:]
    if ending == ".bmp":
        return data[:18] + struct.pack("<ii", width, -height) + data[26:]
    if ending == ".webp":  # an empty extended file
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + data[12:]
    entries = struct.pack("<HHHII", 2, 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    return b"II*\0" + struct.pack("<I", 8) + entries + b"\0" * 4


@pytest.mark.parametrize("ending", [".jpg", ".prog.jpg", ".png", ".bmp", ".webp", ".tif"])
def test_a_few_bytes_cannot_claim_any_size(tmp_path, image, ending):
    path = tmp_path / f"a{ending}"
    image(path)
    if ending == ".prog.jpg":
        cv2.imwrite(str(path), cv2.imread(str(path)), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    path.write_bytes(claiming(ending, path.read_bytes(), 30000, 16000))
    for read in (read_image, read_stored, image_size):
        with pytest.raises(ImageError, match="is 30000x16000, more than 128 million pixels"):
            read(path)


@pytest.mark.parametrize(("flags", "least"), [([], 150), ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], 195)])
def test_damage_that_libjpeg_hears_is_refused(tmp_path, flags, least):
    pytest.importorskip("simplejpeg", reason="without it OpenCV keeps to itself what libjpeg says")
    picture = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_CUBIC)
    whole = cv2.imencode(".jpg", picture, flags)[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (240, 320, 3)
    for missing in (2, 3, 10):
        path.write_bytes(whole[: len(whole) // missing] + b"\xff\xd9")  # an editor closed it
        with pytest.raises(ImageError, match=r"a\.jpg (is damaged: Corrupt JPEG data|cannot be decoded)"):
            read_image(path)
    refused = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        at = int(rng.integers(1000, len(whole) - 600))
        noise = rng.integers(0, 255, 512, np.uint8).tobytes()  # no 0xff: no false marker
        path.write_bytes(whole[:at] + noise + whole[at + 512 :])
        try:
            read_image(path)
        except ImageError:
            refused += 1
    assert refused >= least  # not all can be known: other bytes may be an image too


def test_without_simplejpeg_images_are_read_all_the_same(tmp_path, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert read_image(image(tmp_path / "a.jpg")).shape == (48, 64, 3)


def test_odd_segments_are_no_damage(tmp_path, image):
    data = image(tmp_path / "a.jpg", 320, 240).read_bytes()
    for marker, payload in (
        (b"\xe2", b"ICC_PROFILE\0\x09\x01x"),
        (b"\xfe", b"a comment"),
        (b"\xe1", b"http:x"),
    ):
        segment = b"\xff" + marker + struct.pack(">H", len(payload) + 2) + payload
        (tmp_path / "b.jpg").write_bytes(data[:2] + segment + data[2:])
        assert np.array_equal(read_image(tmp_path / "b.jpg"), read_image(tmp_path / "a.jpg"))


def test_grey_and_cmyk_jpegs(tmp_path):
    from PIL import Image

    for mode in ("L", "CMYK"):
        Image.new(mode, (40, 30)).save(tmp_path / "a.jpg")
        assert read_image(tmp_path / "a.jpg").shape == (30, 40, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path, kind in (
        (tmp_path / "a.jpg", "a fifo"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
    ):
        for read in (read_image, image_size):
            with pytest.raises(ImageError, match=f"it is {kind}, not a regular file"):
                read(path)


def test_orientation_follows_the_labels(tmp_path, image):
    path = image(tmp_path / "a.jpg", 64, 48)
    path.write_bytes(with_orientation(path.read_bytes(), 6))
    assert read_image(path).shape == (64, 48, 3)
    assert image_size(path) == (64, 48)
    assert read_image(path, size=(64, 48)).shape == (64, 48, 3)
    assert read_image(path, size=(48, 64)).shape == (48, 64, 3)
    assert may_have(path, (48, 64)) and may_have(path, (64, 48)) and not may_have(path, (50, 50))
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
