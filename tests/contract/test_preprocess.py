"""Preprocessing: the resize rules, the normalisation, and the way back to the frame."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.contract.preprocess import Preprocessor, halvings, place, preprocess
from edgedet.contract.spec import Colour, Input, Resize


def make(resize: Resize = "stretch", colour: Colour = "RGB") -> Input:
    return Input("images", 64, 96, (0.5, 0.25, 0.1), (0.5, 0.2, 1.0), colour=colour, resize=resize)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_normalisation_is_the_spec_s(colour: Colour) -> None:
    spec, image = make(colour=colour), picture(64, 96)  # no resize needed
    out, transform = preprocess(image, spec)
    ordered = image[..., ::-1] if colour == "RGB" else image
    expected = (ordered / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(out[0], expected.transpose(2, 0, 1), atol=1e-5)
    assert (transform.scale_x, transform.scale_y, transform.left, transform.top) == (1, 1, 0, 0)
    assert out.dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "method"),
    [((128, 192), cv2.INTER_AREA), ((32, 48), cv2.INTER_LINEAR), ((32, 192), cv2.INTER_LINEAR)],
)
def test_stretch_averages_when_shrinking_and_interpolates_otherwise(
    shape: tuple[int, int], method: int
) -> None:
    spec, image = make(), picture(*shape)
    out, _ = preprocess(image, spec)
    resized = cv2.resize(image, (96, 64), interpolation=method)[..., ::-1]
    expected = (resized / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(out[0], expected.transpose(2, 0, 1), atol=1e-5)


def test_letterbox_keeps_the_aspect_and_fills_with_the_mean() -> None:
    spec, image = make("letterbox"), picture(100, 100)
    out, transform = preprocess(image, spec)
    assert (transform.left, transform.top) == (16, 0)
    assert transform.scale_x == transform.scale_y == 0.64
    border = np.concatenate([out[0, :, :, :16], out[0, :, :, 80:]], axis=2)
    assert np.abs(border).max() < 0.02  # the mean colour, to within the rounding to 8 bits


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", [(720, 1280), (50, 400), (333, 100), (64, 96)])
def test_boxes_come_back_to_where_they_were(resize: Resize, shape: tuple[int, int]) -> None:
    height, width = shape
    transform = place(width, height, make(resize))
    box = np.array([[0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]], np.float32)
    scale = np.array([transform.scale_x, transform.scale_y] * 2)
    offset = np.array([transform.left, transform.top] * 2)
    network = (box * scale + offset).astype(np.float32)
    assert (network >= 0).all()
    assert (network <= [96, 64, 96, 64]).all()
    np.testing.assert_allclose(transform.to_frame(network), box, rtol=1e-4, atol=1e-3)
    outside = transform.to_frame(np.array([[-50, -50, 500, 500]], np.float32))
    np.testing.assert_array_equal(outside, [[0, 0, width, height]])


def test_a_marked_pixel_lands_where_the_placement_says() -> None:
    spec = make("letterbox")
    image = np.zeros((200, 200, 3), np.uint8)
    image[100:120, 40:60] = 255
    out, transform = preprocess(image, spec)
    bright = out[0, 0] > 0.5  # white is 1, black -1, the border 0
    rows, cols = np.where(bright)
    found = transform.to_frame(
        np.array([[cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]], np.float32)
    )
    np.testing.assert_allclose(found, [[40, 100, 60, 120]], atol=3.2)


def test_a_change_of_frame_size_leaves_no_ghost() -> None:
    spec = make("letterbox")
    preprocessor = Preprocessor(spec)
    out = np.empty((3, 64, 96), np.float32)
    preprocessor(picture(64, 96), out)  # fills the whole canvas
    preprocessor(picture(100, 100), out)
    fresh, _ = preprocess(picture(100, 100), spec)
    np.testing.assert_array_equal(out, fresh[0])


@pytest.mark.parametrize(
    ("shape", "count"), [((128, 192), 1), ((256, 400), 2), ((127, 192), 0), ((100, 150), 0)]
)
def test_large_frames_are_halved_first(shape: tuple[int, int], count: int) -> None:
    assert halvings((shape[1], shape[0]), (96, 64)) == count


def test_a_frame_shrunk_in_steps_is_close_to_one_average() -> None:
    spec = make()
    smooth = cv2.GaussianBlur(picture(360, 640), (0, 0), 3)  # as little detail per pixel as a photograph has
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    out, _ = preprocess(smooth, spec)
    once = cv2.resize(smooth, (96, 64), interpolation=cv2.INTER_AREA)[..., ::-1]
    levels = (out[0].transpose(1, 2, 0) * spec.std + spec.mean) * 255
    assert np.abs(levels - once).mean() < 3


def allowed(position: float) -> set[int]:
    """The pixels whose centre is nearest to a position: one, or the two beside it."""
    nearest = round(position)
    return {nearest - 1, nearest} if abs(position - nearest) < 1e-6 else {math.floor(position)}


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from(["stretch", "letterbox"]))
@settings(max_examples=150, deadline=None)
def test_a_map_comes_back_to_the_frame_by_nearest_centres(width: int, height: int, resize: Resize) -> None:
    spec = make(resize)
    transform = place(width, height, spec)
    rows, cols = (np.mgrid[0:64, 0:96][i].astype(np.uint8) for i in (0, 1))
    got_rows, got_cols = transform.map_to_frame(rows), transform.map_to_frame(cols)
    assert got_rows.shape == got_cols.shape == (height, width)
    assert (got_rows == got_rows[:, :1]).all()
    assert (got_cols == got_cols[:1]).all()
    for y, found in enumerate(got_rows[:, 0].tolist()):
        assert found in allowed((y + 0.5) * transform.scale_y + transform.top)
    for x, found in enumerate(got_cols[0].tolist()):
        assert found in allowed((x + 0.5) * transform.scale_x + transform.left)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", [(128, 192), (50, 400), (333, 100), (64, 96), (32, 48)])
def test_what_was_seen_is_where_it_was(resize: Resize, shape: tuple[int, int]) -> None:
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 255
    out, transform = preprocess(image, make(resize, "BGR"))
    seen = (out[0, 0] > 0).astype(np.uint8)  # white is 1, black -1
    back = transform.map_to_frame(seen)
    wrong = np.argwhere(back != (image[..., 0] > 0))
    # a pixel of the network is as many of the frame's as it shrank
    for axis, (length, scale) in enumerate(((height, transform.scale_y), (width, transform.scale_x))):
        near = np.minimum(*(np.abs(wrong[:, axis] + 0.5 - length // n) for n in (4, 2)))
        others = near > max(1, 1 / scale)
        wrong = wrong[others]
    assert len(wrong) == 0


def test_a_map_goes_into_the_buffer_it_is_given() -> None:
    transform = place(100, 50, make())
    seen = np.random.default_rng(0).integers(0, 9, (64, 96)).astype(np.uint8)
    buffer = np.full((50, 100), 255, np.uint8)
    assert transform.map_to_frame(seen, buffer) is buffer
    np.testing.assert_array_equal(buffer, transform.map_to_frame(seen))
    for wrong in (np.empty((50, 99), np.uint8), np.empty((50, 100), np.int64)):
        with pytest.raises(ValueError, match=r"expected uint8 \(50, 100\)"):
            transform.map_to_frame(seen, wrong)
