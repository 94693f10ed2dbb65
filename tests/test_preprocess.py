"""Preprocessing: the resize rules, the normalisation, and the way back to the frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgedet.preprocess import Preprocessor, halvings, place, preprocess
from edgedet.spec import Colour, Input, Resize


def make(resize: Resize = "stretch", colour: Colour = "RGB") -> Input:
    return Input("images", 64, 96, (0.5, 0.25, 0.1), (0.5, 0.2, 1.0), colour=colour, resize=resize)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_normalisation_is_the_spec_s(colour: Colour) -> None:
    spec, image = make(colour=colour), picture(64, 96)  # no resize needed
    out, placement = preprocess(image, spec)
    ordered = image[..., ::-1] if colour == "RGB" else image
    expected = (ordered / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(out[0], expected.transpose(2, 0, 1), atol=1e-5)
    assert (placement.scale_x, placement.scale_y, placement.left, placement.top) == (1, 1, 0, 0)
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
    out, placement = preprocess(image, spec)
    assert (placement.left, placement.top) == (16, 0)
    assert placement.scale_x == placement.scale_y == 0.64
    border = np.concatenate([out[0, :, :, :16], out[0, :, :, 80:]], axis=2)
    assert np.abs(border).max() < 0.02  # the mean colour, to within the rounding to 8 bits


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", [(720, 1280), (50, 400), (333, 100), (64, 96)])
def test_boxes_come_back_to_where_they_were(resize: Resize, shape: tuple[int, int]) -> None:
    height, width = shape
    placement = place(width, height, make(resize))
    box = np.array([[0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]], np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * 2)
    offset = np.array([placement.left, placement.top] * 2)
    network = (box * scale + offset).astype(np.float32)
    assert (network >= 0).all()
    assert (network <= [96, 64, 96, 64]).all()
    np.testing.assert_allclose(placement.to_frame(network), box, rtol=1e-4, atol=1e-3)
    outside = placement.to_frame(np.array([[-50, -50, 500, 500]], np.float32))
    np.testing.assert_array_equal(outside, [[0, 0, width, height]])


def test_a_marked_pixel_lands_where_the_placement_says() -> None:
    spec = make("letterbox")
    image = np.zeros((200, 200, 3), np.uint8)
    image[100:120, 40:60] = 255
    out, placement = preprocess(image, spec)
    bright = out[0, 0] > 0.5  # white is 1, black -1, the border 0
    rows, cols = np.where(bright)
    found = placement.to_frame(
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
