"""Preprocessing: the resize rules, the normalisation, and the way back to the frame."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.contract.frames import YuvImage
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
    ("size", "steps"),
    [
        ((192, 128), [(2, 2)]),
        ((400, 256), [(2, 2), (2, 2)]),
        ((576, 216), [(2, 2), (2, 1)]),  # 1920 x 1080 to a square
        ((216, 576), [(2, 2), (1, 2), (1, 2)]),
        ((384, 128), [(2, 2)]),  # what remains of an axis is just two
        ((192, 127), []),
        ((288, 96), []),  # one axis alone
        ((150, 100), []),
    ],
)
def test_large_frames_are_averaged_in_steps(size: tuple[int, int], steps: list[tuple[int, int]]) -> None:
    assert halvings(size, (96, 64)) == steps


def test_a_step_along_one_axis_is_the_mean_of_two() -> None:
    image = picture(216, 576)
    out, _ = preprocess(image, make())
    halves = image.reshape(108, 2, 288, 2, 3).mean((1, 3)).reshape(108, 144, 2, 3).mean(2)
    once = cv2.resize(halves.astype(np.float32), (96, 64), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    levels = (out[0].transpose(1, 2, 0) * make().std + make().mean) * 255
    np.testing.assert_allclose(levels, once, atol=1.51)  # each of three steps rounds


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


def pixel_input(resize: Resize = "stretch", colour: Colour = "BGR") -> Input:
    """As `make`, of a graph that normalises itself."""
    return Input("images", 64, 96, (0.5, 0.25, 0.1), (0.5, 0.2, 1.0), colour, resize, None, "uint8", "NHWC")


SHAPES = [(720, 1280), (128, 192), (101, 150), (64, 96), (100, 100), (50, 400), (333, 7), (7, 9), (1, 1)]


@pytest.mark.parametrize("colour", ["BGR", "RGB"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_that_normalises_gets_the_very_pixels(
    resize: Resize, colour: Colour, shape: tuple[int, int]
) -> None:
    """What uint8 (N, H, W, 3) means after (v / 255 - mean) / std is what float32 (N, 3, H, W) holds."""
    image = picture(*shape)
    floats, transform = preprocess(image, make(resize, colour))
    batch = np.full((3, 64, 96, 3), 77, np.uint8)
    preprocessor = Preprocessor(spec := pixel_input(resize, colour))
    assert preprocessor(image, batch[1]) == transform
    meant = ((batch[1] / 255 - spec.mean) / spec.std).transpose(2, 0, 1)
    np.testing.assert_allclose(meant, floats[0], atol=1e-5)
    assert (batch[[0, 2]] == 77).all()  # nothing beside its own image
    again = np.empty_like(batch[0])  # another buffer, with nothing of the letterbox in it yet
    preprocessor(image, again)
    np.testing.assert_array_equal(again, batch[1])


def planes(image: np.ndarray, matrix: str = "bt601", full_range: bool = False) -> YuvImage:
    """4:2:0 planes: the luma of a picture, and colours that change as gently as those of real frames."""
    height, width = image.shape[:2]
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse = np.random.default_rng(1).uniform(100, 156, (2, 20, 30)).astype(np.float32)
    large = [
        cv2.resize(c, None, fx=24, fy=24, interpolation=cv2.INTER_CUBIC).astype(np.uint8) for c in coarse
    ]
    u, v = (np.ascontiguousarray(c[: half[1], : half[0]]) for c in large)
    y = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return YuvImage(y, u, v, matrix, full_range)  # type: ignore[arg-type]


def levels_apart(yuv: YuvImage, spec: Input) -> float:
    """Mean difference in grey levels of a frame from its planes and from its BGR."""
    straight, transform = preprocess(yuv, spec)
    by_bgr, expected = preprocess(yuv.to_bgr(), spec)
    assert transform == expected
    return float(np.abs(straight.astype(np.float64) - by_bgr).mean())


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("matrix", "full_range"), [("bt601", False), ("bt709", True), ("bt2020", False)])
def test_planes_give_what_their_bgr_gives(
    resize: Resize, shape: tuple[int, int], matrix: str, full_range: bool
) -> None:
    smooth = cv2.GaussianBlur(picture(*shape), (0, 0), 1)
    assert levels_apart(planes(smooth, matrix, full_range), pixel_input(resize)) <= 1


def test_planes_of_one_colour_are_that_colour_to_the_level() -> None:
    yuv = YuvImage(
        np.full((90, 160), 140, np.uint8), np.full((45, 80), 90, np.uint8), np.full((45, 80), 200, np.uint8)
    )
    for spec in (pixel_input(), make(colour="BGR"), make()):
        np.testing.assert_array_equal(preprocess(yuv, spec)[0], preprocess(yuv.to_bgr(), spec)[0])


@pytest.mark.parametrize("name", ["people-walking", "car-detection"])
def test_planes_of_real_frames(shared: Path, name: str) -> None:
    av = pytest.importorskip("av")
    with av.open(str(shared / f"videos/{name}.mp4")) as container:
        frames = [f for i, f in enumerate(container.decode(video=0)) if i % 100 == 0]
    for frame in frames:
        assert frame.format.name == "yuv420p"
        y, u, v = (
            np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in frame.planes
        )
        # even and odd sizes, larger and smaller than the network's
        for h, w in ((frame.height, frame.width), (frame.height - 1, frame.width - 1), (51, 75), (200, 33)):
            half = (slice((h + 1) // 2), slice((w + 1) // 2))
            yuv = YuvImage(y[:h, :w], u[half], v[half], "bt709", owner=frame)
            for resize in ("stretch", "letterbox"):
                assert levels_apart(yuv, pixel_input(resize)) <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [make(), make("letterbox"), pixel_input(), pixel_input("letterbox")])
@pytest.mark.parametrize("shape", [(720, 1280), (361, 641)])
def test_a_size_that_was_seen_allocates_nothing(spec: Input, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    yuv = planes(image)
    for pixels in (image, yuv):
        preprocessor, out = Preprocessor(spec), np.empty(spec.shape[1:], spec.dtype)
        preprocessor(pixels, out)
        tracemalloc.start()
        try:
            preprocessor(pixels, out)
            assert tracemalloc.get_traced_memory()[1] < 10_000  # no array: the smallest would be 18 kB
        finally:
            tracemalloc.stop()


def test_planes_and_pictures_take_turns() -> None:
    spec = pixel_input("letterbox")
    preprocessor, out = Preprocessor(spec), np.empty((64, 96, 3), np.uint8)
    for pixels in (picture(100, 100), planes(picture(100, 100)), picture(64, 96), planes(picture(50, 400))):
        preprocessor(pixels, out)
        np.testing.assert_array_equal(out, preprocess(pixels, spec)[0][0])
