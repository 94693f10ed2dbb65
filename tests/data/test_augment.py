"""Image and class map move together; nothing is invented where the image has no pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.contract.spec import VOID
from edgedet.data import Sample

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from edgedet.data.augment import RandomWindow, Stretch, apply, segmentation_transform  # noqa: E402

FILL = (7, 99, 201)


def painted(class_map: np.ndarray) -> Sample:
    """A sample whose image is its class map: grey = class, so that each can be read from the other."""
    image = np.repeat(class_map[..., None], 3, 2)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    return Sample("a", image, *nothing, class_map)


def blocks(rows: int, columns: int, side: int, seed: int = 0) -> np.ndarray:
    """Squares of the classes 0, 50, 100, 150, 200."""
    small = np.random.default_rng(seed).integers(0, 5, (rows // side + 1, columns // side + 1)) * 50
    return np.kron(small, np.ones((side, side))).astype(np.uint8)[:rows, :columns]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(8, 90),
    columns=st.integers(8, 90),
    size=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    zoom=st.floats(0.3, 3.0),
    seed=st.integers(0, 2**31),
)
def test_a_window_has_the_size_asked_for_and_labels_that_were_there(rows, columns, size, zoom, seed):
    sample = painted(blocks(rows, columns, 1, seed))
    torch.manual_seed(seed)
    window = RandomWindow(size, (zoom, zoom), FILL)
    image, targets = apply(window, sample)
    assert image.shape == (3, *size)
    assert (targets.class_map.shape, targets.class_map.dtype) == (size, torch.uint8)
    assert set(targets.class_map.unique().tolist()) <= {0, 50, 100, 150, 200, VOID}
    pixel = max(rows / size[0], columns / size[1]) / zoom
    if min(rows, columns) > pixel + 1:  # else it may lie between the centres of two pixels
        assert (targets.class_map != VOID).any()


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.6, 2.0])
def test_labels_lie_where_the_picture_says(scale):
    """Away from edges a smooth resize of a painted map is the painted map: to the pixel, not half of one."""
    sample = painted(blocks(96, 128, 16))
    for seed in range(5):
        torch.manual_seed(seed)
        image, targets = apply(RandomWindow((120, 160), (scale, scale), FILL), sample)
        red, map_ = image[0].int(), targets.class_map.int()
        outside = map_ == VOID
        assert outside.any() == (scale < 1)
        wrong = (red - map_).abs()[~outside]
        # between two classes the picture is in between, the label one of both: half a step of the largest
        assert (wrong > 101).float().mean() < 0.002
        assert (wrong > 2).float().mean() < 0.25
        assert (red - map_)[~outside].float().mean().abs() < 2
        # smoothing reaches two pixels
        far = torch.from_numpy(cv2.erode(outside.numpy().astype(np.uint8), np.ones((5, 5)))).bool()
        assert far.any() == (scale < 1)
        for channel, value in enumerate(FILL):
            assert (image[channel][far] == value).all()


def test_stretch_has_no_half_pixel_shift():
    """Labels of a step at column 30 of 60: at 2/3 of the width the step is at 20, seen from either side."""
    step = np.zeros((8, 60), np.uint8)
    step[:, 30:] = 1
    for flipped in (step, step[:, ::-1].copy()):
        _, targets = apply(Stretch((8, 40)), painted(flipped))
        assert targets.class_map.float().mean() == 0.5
    ramp = np.tile(np.arange(60, dtype=np.uint8), (8, 1))
    _, targets = apply(Stretch((8, 25)), painted(ramp))
    centres = (np.arange(25) + 0.5) * 60 / 25 - 0.5
    assert np.abs(targets.class_map[0].numpy() - centres).max() <= 0.5
    assert abs((targets.class_map[0].numpy() - centres).mean()) < 0.2  # torch's "nearest": 1.1


def test_without_training_it_only_stretches():
    sample = painted(blocks(48, 64, 8))
    transform = segmentation_transform((96, 128), train=False, fill=FILL)
    image, targets = apply(transform, sample)
    assert image.shape == (3, 96, 128)
    assert np.array_equal(targets.class_map.numpy(), np.kron(sample.class_map, np.ones((2, 2))))


def test_training_is_random_and_repeatable():
    sample = painted(blocks(48, 64, 8))
    transform = segmentation_transform((40, 56), train=True, fill=FILL)
    made = []
    for seed in (0, 0, 1, 2, 3, 4):
        torch.manual_seed(seed)
        made.append(apply(transform, sample))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1].class_map, made[1][1].class_map)
    assert len({m[1].class_map.numpy().tobytes() for m in made}) == 5


def test_flips():
    sample = painted(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    seen = {True: set(), False: set()}
    for upright in seen:
        transform = segmentation_transform((2, 3), train=True, fill=FILL, scale=(1, 1), upright=upright)
        for seed in range(40):
            torch.manual_seed(seed)
            seen[upright].add(apply(transform, sample)[1].class_map.numpy().tobytes())
    maps = [sample.class_map[::v, ::h].tobytes() for v in (1, -1) for h in (1, -1)]
    assert seen[True] == set(maps[:2])
    assert seen[False] == set(maps)


def test_a_detectors_targets_have_no_map(voc, obj):
    from edgedet.data import open_dataset
    from edgedet.data.augment import detection_transform

    voc.add("a", obj("dog", 11, 11, 40, 40))
    sample = open_dataset(f"voc:{voc.root}").load(0)
    _, targets = apply(detection_transform((64, 64), train=True, fill=FILL), sample)
    assert targets.class_map is None


def test_real_photographs(shared):
    from edgedet.data import open_dataset

    data = open_dataset(f"masks:{shared / 'camvid'}", "train")
    transform = segmentation_transform((180, 240), train=True, fill=FILL)
    for i in range(4):
        torch.manual_seed(i)
        image, targets = apply(transform, data.load(i * 90))
        assert image.shape == (3, 180, 240)
        assert image.dtype == targets.class_map.dtype == torch.uint8
        assert set(targets.class_map.unique().tolist()) <= {*range(11), VOID}
        assert (targets.class_map != VOID).float().mean() > 0.2
