"""What is drawn: where, in which colours, and that it stays inside the frame."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.contract.errors import ImageError
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.runtime import Overlay
from edgedet.runtime.sinks.overlay import Style, class_colour, draw_label, text_colour

CLASSES = tuple(f"class {i}" for i in range(80))


def one(box: tuple[float, float, float, float], label: int = 3) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.87], np.float32), np.array([label], np.int64))


def blank(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 127, np.uint8)


def test_a_box_is_drawn_in_its_class_s_colour_along_its_edges() -> None:
    image = blank()
    Overlay(CLASSES).draw(image, one((100, 120, 200, 180)))
    for y, x in ((150, 100), (150, 199), (179, 150)):
        assert tuple(image[y, x]) == class_colour(3)
    assert (image[150, 150] == 127).all()  # the inside is left to be seen
    assert (image[200:, :] == 127).all()
    assert (image[100:120, 100:150] != 127).any()  # the label sits on the box


def test_nothing_found_leaves_the_frame_as_it_was() -> None:
    image = blank()
    Overlay(CLASSES).draw(image, Detections.empty())
    assert (image == 127).all()


def plate(image: np.ndarray) -> tuple[int, int]:
    """Height and width of what is red."""
    red = (image[..., 2] == 200) & (image[..., 0] == 0)
    return np.count_nonzero(red.any(axis=1)), np.count_nonzero(red.any(axis=0))


@pytest.mark.parametrize("size", [(48, 64), (240, 320), (1080, 1920)])
@pytest.mark.parametrize("anchor", [(-50, -50), (10_000, 10_000), (0, 10_000)])
def test_labels_stay_inside_the_frame(size: tuple[int, int], anchor: tuple[int, int]) -> None:
    style = Style(*size)
    middle, moved = blank(*size), blank(*size)
    draw_label(middle, "cat", (size[1] // 4, size[0] // 2), (0, 0, 200), style)
    draw_label(moved, "cat", anchor, (0, 0, 200), style)
    assert plate(moved) == plate(middle)
    assert min(plate(middle)) >= 10


def test_sizes_follow_the_frame() -> None:
    small, large = Style(240, 320), Style(2160, 3840)
    assert small.line >= 1
    assert large.line > 4 * small.line
    assert large.font > 3 * small.font


def test_colours_are_stable_distinct_and_readable() -> None:
    colours = [class_colour(i) for i in range(20)]
    assert colours == [class_colour(i) for i in range(20)]
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(distances) > 20
    for colour in colours:
        luma = np.dot(colour, (0.114, 0.587, 0.299))
        assert abs(luma - np.mean(text_colour(colour))) > 100


def test_the_best_lies_on_top() -> None:
    both = Detections(
        np.array([[50, 60, 150, 160], [50, 60, 150, 160]], np.float32),
        np.array([0.9, 0.3], np.float32),
        np.array([1, 2], np.int64),
    )
    image = blank()
    Overlay(CLASSES).draw(image, both)
    assert tuple(image[100, 50]) == class_colour(1)


def test_the_caption_shows_at_the_top_left_and_only_if_wanted() -> None:
    plain, captioned = blank(), blank()
    Overlay(CLASSES).draw(plain, Detections.empty())
    overlay = Overlay(CLASSES, caption="OpenVINO CPU int8")
    for _ in range(3):
        overlay.draw(captioned, Detections.empty())
    assert (plain == 127).all()
    assert (captioned[2, 2] == 0).all()
    assert (captioned[120:] == 127).all()


def test_frames_may_change_their_size() -> None:
    overlay = Overlay(CLASSES, caption="x")
    for size in ((48, 64), (720, 1280), (48, 64)):
        image = blank(*size)
        overlay.draw(image, one((0, 0, size[1], size[0])))
        assert tuple(image[size[0] - 1, size[1] // 2]) == class_colour(3)


def halves(height: int, width: int, left: int, right: int) -> SegmentationMap:
    classes = np.full((height, width), right, np.uint8)
    classes[:, : width // 2] = left
    return SegmentationMap(classes)


def mixed(label: int) -> np.ndarray:
    return (127 + np.array(class_colour(label))) / 2


def test_a_map_is_painted_in_its_classes_colours() -> None:
    image = blank()
    Overlay(CLASSES).draw(image, halves(240, 320, 4, 9))
    np.testing.assert_allclose(image[10, 150], mixed(4), atol=1)
    np.testing.assert_allclose(image[10, 170], mixed(9), atol=1)
    np.testing.assert_allclose(image[230, 310], mixed(9), atol=1)


def test_the_background_is_left_as_it_was() -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    before = image.copy()
    Overlay(("Background", "cell")).draw(image, halves(240, 320, 0, 1))
    np.testing.assert_array_equal(image[:100, :160], before[:100, :160])
    assert (image[:100, 160:] != before[:100, 160:]).any(axis=2).mean() > 0.95


def test_the_legend_names_what_is_there_largest_on_top() -> None:
    image = blank()
    classes = np.full((240, 320), 2, np.uint8)
    classes[:, 200:] = 5
    Overlay(CLASSES).draw(image, SegmentationMap(classes))
    colours = [tuple(row) for row in image[:, 1].tolist()]  # down the left edge of the plates
    upper = [y for y, c in enumerate(colours) if c == class_colour(2)]
    lower = [y for y, c in enumerate(colours) if c == class_colour(5)]
    assert len(upper) >= 10
    assert len(lower) >= 10
    assert max(upper) < min(lower)
    assert max(lower) == 239
    assert class_colour(3) not in colours


def test_a_legend_higher_than_the_frame_is_cut() -> None:
    image = blank(48, 320)
    classes = np.tile(np.arange(80, dtype=np.uint8), (48, 4))
    Overlay(CLASSES).draw(image, SegmentationMap(classes))
    plates = {tuple(c) for c in image[:, 1].tolist()} & {class_colour(k) for k in range(80)}
    assert 1 <= len(plates) <= 4


def test_a_map_of_another_size_is_refused() -> None:
    overlay = Overlay(CLASSES)
    for size in ((240, 320), (48, 64), (240, 320)):
        overlay.draw(blank(*size), halves(*size, 1, 2))
    with pytest.raises(ValueError, match=r"got shape \(48, 64\), expected \(240, 320\)"):
        overlay.draw(blank(), halves(48, 64, 1, 2))


@pytest.mark.parametrize(
    "image",
    [np.zeros((48, 64), np.uint8), np.zeros((48, 64, 4), np.uint8), np.zeros((48, 64, 3), np.float32), None],
)
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(ImageError):
        Overlay(CLASSES).draw(image, one((0, 0, 20, 20)))  # type: ignore[arg-type]


def test_names_from_anywhere_are_drawn() -> None:
    """OpenCV's fonts end the process at a half surrogate."""
    labels = []
    for name in ("\udce9\udcff", "\x1b[31m\n\x00", "行人", "Straße", "x" * 5000):
        overlay = Overlay((name,), caption=name)
        overlay.warm_up()
        image = blank()
        overlay.draw(image, one((40, 120, 280, 200), label=0))
        labels.append(image.tobytes())
    assert len(set(labels)) == len(labels)
