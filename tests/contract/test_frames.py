"""Frames: pixels of the right kind only, BGR on demand and once, what travels with them."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import ImageError
from edgedet.contract.frames import Frame, YuvImage, check_image


def planes(height: int = 48, width: int = 64, seed: int = 0) -> YuvImage:
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 200, (2, 3, 3), np.uint8)
    bgr = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    whole = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    flat = whole.reshape(-1)
    n, m = height * width, height * width // 4
    half = (height // 2, width // 2)
    return YuvImage(
        flat[:n].reshape(height, width), flat[n : n + m].reshape(half), flat[n + m :].reshape(half)
    )


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "NoneType.*cv2.imread returns None"),
        ("picture.jpg", "An image is str"),
        (np.zeros((4, 6), np.uint8), r"shape \(4, 6\).*COLOR_GRAY2BGR"),
        (np.zeros((4, 6, 1), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((4, 6, 4), np.uint8), "COLOR_BGRA2BGR"),
        (np.zeros((4, 6, 3), np.float32), "float32.*scale to 0..255"),
        (np.zeros((4, 6, 3), np.uint16), "uint16.*>> 8"),
        (np.zeros((4, 6, 3), np.int8), "int8"),
        (np.zeros((4, 6, 3), bool), "bool"),
        (np.zeros((3, 4, 6), np.uint8), "Channels come last"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"image\[0\]"),
        (np.zeros((0, 0, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "no pixels"),
    ],
)
def test_what_is_no_image_is_refused_by_name(image: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        check_image(image)
    with pytest.raises(ImageError, match=words):
        Frame(image)  # type: ignore[arg-type]


def test_planes_must_fit_each_other() -> None:
    y, half = np.zeros((5, 7), np.uint8), np.zeros((3, 4), np.uint8)
    assert YuvImage(y, half, half).size == (5, 7)
    with pytest.raises(ImageError, match=r"plane v is uint8 \(2, 4\), expected uint8 \(3, 4\)"):
        YuvImage(y, half, half[:2])
    with pytest.raises(ImageError, match="plane y is uint16"):
        YuvImage(y.astype(np.uint16), half, half)
    with pytest.raises(ImageError, match="plane y"):
        YuvImage(y[:0], half[:0], half[:0])


def test_bgr_is_made_on_demand_once_and_in_the_buffer() -> None:
    yuv = planes()
    buffer = np.zeros((48, 64, 3), np.uint8)
    frame = Frame(yuv, 3, 5.0, "clip.mp4", media_time=0.12, file="a.mp4", buffer=buffer)
    assert (frame.size, frame.yuv, buffer.any()) == ((48, 64), yuv, False)
    image = frame.image
    assert image is buffer
    assert frame.image is image
    reference = cv2.cvtColor(
        np.concatenate([p.reshape(-1) for p in (yuv.y, yuv.u, yuv.v)]).reshape(72, 64), cv2.COLOR_YUV2BGR_I420
    )
    assert np.abs(image.astype(int) - reference).mean() < 1
    assert frame.release() is buffer


def test_a_frame_of_bgr_is_what_was_given() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    frame = Frame(image)
    assert frame.image is image
    assert frame.yuv is None
    assert abs(frame.utc - time.time()) < 5
    assert frame.media_time is None
    assert frame.release() is image


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_are_the_frames_own(matrix: str, full: bool) -> None:
    """Grey stays grey, black and white lie at the ends of the range, and a pure red comes back."""
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[matrix]
    low, luma, chroma = (0, 255, 255) if full else (16, 219, 224)

    def one(red: float, green: float, blue: float) -> list[int]:
        y = kr * red + (1 - kr - kb) * green + kb * blue
        u, v = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
        values = (low + luma * y, 128 + chroma * u, 128 + chroma * v)
        coded = [
            np.full((4, 4) if i == 0 else (2, 2), min(255, round(x)), np.uint8) for i, x in enumerate(values)
        ]
        return Frame(YuvImage(*coded, matrix=matrix, full_range=full)).image[1, 1].tolist()

    for rgb in ((0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 0), (0.2, 0.4, 0.9)):
        np.testing.assert_allclose(one(*rgb), [255 * c for c in reversed(rgb)], atol=2.5)
