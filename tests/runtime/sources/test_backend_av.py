"""What PyAV gives beside the pixels: the decoder's planes, their colours, and frames upright."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.frames import Image, YuvImage
from edgedet.runtime import open_source
from edgedet.runtime.sources.backend_opencv import OpenCVReader
from edgedet.runtime.sources.reader import open_reader

av = pytest.importorskip("av", reason="needs PyAV (extra: av)")


def encode(
    path: Path, *, codec: str, pixels: str, size: tuple[int, int], colours: tuple[int, int] = (2, 0)
) -> Path:
    """Three frames of two coloured halves; colours: matrix and range as FFmpeg numbers them."""
    height, width = size
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = colours
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(halves(size), format="bgr24").reformat(
                format=pixels,
                dst_colorspace={1: 1, 2: 5, 5: 5, 9: 9}[colours[0]],
                dst_color_range=colours[1] or 1,
            )
            frame.pts, frame.colorspace, frame.color_range = i, *colours
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def halves(size: tuple[int, int]) -> Image:
    image = np.empty((*size, 3), np.uint8)
    image[:, : size[1] // 2] = (40, 60, 200)
    image[:, size[1] // 2 :] = (60, 180, 50)
    return image


def inside(image: Image) -> Image:
    """Without the border between the halves, where colours mix."""
    return np.delete(image, range(image.shape[1] // 2 - 8, image.shape[1] // 2 + 8), axis=1)


@pytest.mark.parametrize(
    ("pixels", "size", "colours"),
    [
        ("yuv420p", (96, 128), (2, 0)),  # nothing is said: BT.601, studio range
        ("yuv420p", (96, 128), (1, 1)),
        ("yuv420p", (96, 128), (1, 2)),
        ("yuv420p", (96, 128), (9, 1)),
        ("yuv444p", (97, 131), (5, 1)),
        ("yuv422p", (96, 128), (1, 2)),
        ("yuv420p10le", (96, 128), (1, 1)),
    ],
)
def test_colours_are_those_that_the_frame_names(
    tmp_path: Path, pixels: str, size: tuple[int, int], colours: tuple[int, int]
) -> None:
    path = encode(tmp_path / "clip.mkv", codec="ffv1", pixels=pixels, size=size, colours=colours)
    source = open_source(path)
    for _ in range(3):
        assert source.grab()
        got = source.retrieve(None)
        assert isinstance(got, YuvImage) == (pixels == "yuv420p")
        image = got.to_bgr() if isinstance(got, YuvImage) else got
        assert image.shape == (*size, 3)
        difference = np.abs(inside(image).astype(int) - inside(halves(size)))
        assert difference.mean() <= 1.5
        assert difference.max() <= 6
    assert not source.grab()
    source.close()


def test_high_definition_that_says_nothing_is_bt709(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", codec="ffv1", pixels="yuv420p", size=(720, 1280))
    source = open_source(path)
    assert source.grab()
    pixels = source.retrieve(None)
    assert isinstance(pixels, YuvImage)
    assert (pixels.matrix, pixels.full_range) == ("bt709", False)
    source.close()


def test_pixels_equal_those_of_opencv(bikes: Path) -> None:
    ours, theirs = open_source(bikes), OpenCVReader(bikes, timeout=1)
    for _ in range(30):
        mine = ours.read()
        assert theirs.grab()
        assert mine is not None
        # OpenCV takes one colour sample for four pixels, and rounds down
        assert np.abs(mine.astype(int) - theirs.retrieve(None)).mean() < 1.5
    ours.close()
    theirs.close()


def test_planes_are_views_that_stay_as_they_are(bikes: Path) -> None:
    source = open_source(bikes)
    assert source.grab()
    first = source.retrieve(None)
    assert isinstance(first, YuvImage)
    assert not first.y.flags.owndata
    before = first.to_bgr()
    for _ in range(60):
        assert source.grab()
        source.retrieve(None)
    source.close()
    np.testing.assert_array_equal(first.to_bgr(), before)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright_as_from_opencv(bikes: Path, tmp_path: Path, degrees: int) -> None:
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    data = bytearray(bikes.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 0x10000
    struct.pack_into(">9i", data, at, cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 0x40000000)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    ours, theirs = open_reader(path, timeout=1), OpenCVReader(path, timeout=1)
    assert ours.grab()
    assert theirs.grab()
    mine, other = ours.retrieve(None), theirs.retrieve(None)
    assert isinstance(mine, YuvImage)
    assert ours.size == mine.size == other.shape[:2] == ((640, 272) if degrees % 180 else (272, 640))
    assert np.abs(mine.to_bgr().astype(int) - other).mean() < 1.5
    ours.close()
    theirs.close()


def test_what_opencv_finds_in_a_still_camera_frame(tmp_path: Path) -> None:
    """Motion JPEG is of full range."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
    writer.write(halves((96, 128)))
    writer.release()
    source = open_source(path)
    assert source.grab()
    pixels = source.retrieve(None)
    assert isinstance(pixels, YuvImage)
    assert (pixels.matrix, pixels.full_range) == ("bt601", True)
    source.close()
