"""Class maps from real engines: whole frames, and large ones in tiles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.contract.errors import EngineError, UsageError
from edgedet.contract.frames import Frame
from edgedet.contract.results import SegmentationMap
from edgedet.runtime import JsonLines, Overlay, Pipeline, TiledPredictor, open_predictor, open_source
from edgedet.runtime.tiles import MAX_OVERLAP, tiling

SIZE = (32, 48)
Segmenter = Callable[..., Path]


def scene(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Grey blobs of all levels, none near a border between classes (multiples of 64)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 4, (-(-height // 5), -(-width // 7)))
    levels = (small * 64 + 32).astype(np.uint8)
    grey = cv2.resize(levels, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat(grey[..., None], 3, axis=2)


def truth(image: np.ndarray) -> np.ndarray:
    return image[..., 0] // 64


def classes_of(result: object) -> np.ndarray:
    assert isinstance(result, SegmentationMap)
    return result.classes


# whole frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_an_engine_gives_the_classes(segmenter: Segmenter, engine: str, dtype: str) -> None:
    pytest.importorskip(engine)
    path, image = segmenter(f"{engine}-{dtype}", dtype=dtype), scene(*SIZE)
    with open_predictor(path, engine=engine) as predictor:
        np.testing.assert_array_equal(classes_of(predictor(image)), truth(image))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("end", "stride", "names"),
    [("class_logits", 1, 4), ("class_logits", 4, 4), ("binary", 1, 2)],
)
def test_a_graph_may_end_in_logits(
    segmenter: Segmenter, engine: str, end: str, stride: int, names: int
) -> None:
    pytest.importorskip(engine)
    path = segmenter(f"{end}-{stride}", end=end, stride=stride, classes=tuple("abcd"[:names]))
    image = np.full((*SIZE, 3), 96, np.uint8)
    image[:, 24:] = 224
    with open_predictor(path, engine=engine) as predictor:
        found = classes_of(predictor(image))
    low, high = (1, 3) if names == 4 else (0, 1)
    assert (found[:, : 24 - stride] == low).all()
    assert (found[:, 24 + stride :] == high).all()


def test_frames_of_a_batch_and_several_in_flight_keep_their_maps(segmenter: Segmenter) -> None:
    with open_predictor(segmenter("two", batch=2), in_flight=2) as predictor:
        images = [scene(*SIZE, seed=i).repeat(2, axis=0).repeat(2, axis=1) for i in range(4)]
        frames = [Frame(image, i, time.monotonic(), "test") for i, image in enumerate(images)]
        tickets = [predictor.submit(frames[:2]), predictor.submit(frames[2:])]
        results = [r for t in tickets for r in predictor.collect(t)]
        predictor(scene(64, 96, seed=9))
        whole = [classes_of(r) for r in results]
        for image, found in zip(images, whole, strict=True):
            np.testing.assert_array_equal(found, truth(image))
        assert not any(np.shares_memory(a, b) for i, a in enumerate(whole) for b in whole[:i])


def test_a_class_that_the_spec_does_not_have_is_an_error_and_frees_the_request(segmenter: Segmenter) -> None:
    with open_predictor(segmenter("three", classes=("a", "b", "c")), in_flight=1) as predictor:
        for _ in range(3):
            with pytest.raises(EngineError, match="value 3, expected 0 to 2"):
                predictor(np.full((*SIZE, 3), 255, np.uint8))
        assert (classes_of(predictor(np.full((*SIZE, 3), 150, np.uint8))) == 2).all()


# the tiling ------------------------------------------------------------------------------------------


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 80),
    st.integers(1, 80),
    st.floats(0, MAX_OVERLAP),
)
@settings(max_examples=150, deadline=None)
def test_the_kept_parts_cover_the_frame_once(height: int, width: int, h: int, w: int, overlap: float) -> None:
    tiles = tiling((height, width), (h, w), overlap)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        covered[tile.keep] += 1
        for area, keep, length in zip(tile.area, tile.keep, (height, width), strict=True):
            assert 0 <= area.start <= keep.start < keep.stop <= area.stop <= length
    assert (covered == 1).all()
    sizes = {(t.area[0].stop - t.area[0].start, t.area[1].stop - t.area[1].start) for t in tiles}
    assert len(sizes) == 1
    (size,) = sizes
    if height >= h and width >= w:
        assert size == (h, w)  # at the frame's own resolution
    for axis in (0, 1):
        starts = sorted({t.area[axis].start for t in tiles})
        # a whole pixel may be lost to rounding
        assert all(b - a <= max(1, size[axis] * (1 - overlap)) + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_each_pixel_comes_from_the_tile_it_lies_deepest_in(overlap: float) -> None:
    height, width = 45, 61
    tiles = tiling((height, width), (20, 16), overlap)
    depths = np.full((len(tiles), height, width), -1)
    kept = np.full((height, width), -1)
    for n, tile in enumerate(tiles):
        along = []
        for area, length in zip(tile.area, (height, width), strict=True):
            at = np.arange(area.start, area.stop)
            before = at - area.start + 1 if area.start else np.full(len(at), length)
            after = area.stop - at if area.stop < length else np.full(len(at), length)
            along.append(np.minimum(before, after))
        depths[n][tile.area] = np.minimum(along[0][:, None], along[1][None, :])
        kept[tile.keep] = n
    chosen = np.take_along_axis(depths, kept[None], axis=0)[0]
    assert (depths.max(axis=0) - chosen).max() <= 1  # where an overlap is odd its middle is a pixel


def test_a_frame_smaller_than_the_network_keeps_the_networks_shape() -> None:
    assert len(tiling((32, 48), (32, 48))) == 1
    assert {(t.area[0].stop, t.area[1].stop - t.area[1].start) for t in tiling((16, 100), (32, 48))} == {
        (16, 24)
    }
    (tile,) = tiling((16, 24), (32, 48))
    assert tile.area == tile.keep == (slice(0, 16), slice(0, 24))


# tiles through engines -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (100, 150), (33, 49), (32, 300), (240, 50)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_pointwise_network_gives_the_same_map_in_tiles(
    segmenter: Segmenter, size: tuple[int, int], batch: int
) -> None:
    image = scene(*size)
    with open_predictor(segmenter("whole", size=size)) as predictor:
        whole = classes_of(predictor(image))
    with TiledPredictor(open_predictor(segmenter(f"tile-{batch}", batch=batch))) as tiled:
        found = classes_of(tiled(image))
        again = classes_of(tiled(image[::-1].copy()))
    np.testing.assert_array_equal(whole, truth(image))
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(again, whole[::-1])  # and the first result is still what it was


def test_what_a_network_says_at_its_edges_is_used_at_the_frames_edges_only(segmenter: Segmenter) -> None:
    image = np.full((120, 170, 3), 255, np.uint8)
    path = segmenter("margin", margin=3)
    for overlap, inside in ((0.25, True), (0.0, False)):
        with TiledPredictor(open_predictor(path), overlap=overlap) as tiled:
            found = classes_of(tiled(image))
        assert (found[:3] == 0).all()
        assert (found[:, :3] == 0).all()
        assert (found[3:-3, 3:-3] == 3).all() == inside


def test_times_are_summed_and_one_frame_is_under_way(segmenter: Segmenter) -> None:
    with TiledPredictor(open_predictor(segmenter("times"))) as tiled:
        frame = Frame(scene(100, 150), 0, time.monotonic(), "test")
        ticket = tiled.submit([frame])
        tiled.collect(ticket)
        assert tuple(ticket.times) == tiled.stages
        assert all(seconds > 0 for seconds in ticket.times.values())
        assert tiled.in_flight == 1
        for wrong in ([], [frame, frame]):
            with pytest.raises(EngineError, match="expected 1"):
                tiled.submit(wrong)


def test_a_failing_tile_frees_the_others(segmenter: Segmenter) -> None:
    good = np.full((100, 150, 3), 150, np.uint8)
    bad = good.copy()
    bad[40:50, 60:70] = 255
    with TiledPredictor(open_predictor(segmenter("failing", classes=("a", "b", "c")))) as tiled:
        for _ in range(4):
            with pytest.raises(EngineError, match="value 3"):
                tiled(bad)
            assert (classes_of(tiled(good)) == 2).all()


def test_only_semantic_models_run_in_tiles(brightness: Path, segmenter: Segmenter) -> None:
    with (
        open_predictor(brightness) as boxes,
        pytest.raises(UsageError, match="'brightness' is a model for detection"),
    ):
        TiledPredictor(boxes)
    with (
        open_predictor(segmenter("overlap")) as maps,
        pytest.raises(UsageError, match=r"cannot overlap by 0\.9"),
    ):
        TiledPredictor(maps, overlap=0.9)


@pytest.mark.parametrize("tiled", [False, True])
def test_a_clip_through_the_pipeline(segmenter: Segmenter, clip: Path, tmp_path: Path, tiled: bool) -> None:
    lines = tmp_path / "out.jsonl"
    with open_predictor(segmenter("stream"), streams=2) as whole:
        predictor = TiledPredictor(whole) if tiled else whole
        overlay = Overlay(whole.spec.classes, caption=predictor.name)
        report = Pipeline(open_source(clip), predictor, [JsonLines(lines)], overlay=overlay).run()
    assert report.frames == 40
    assert report.stages["network"].count == 40
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["frame"] for r in records] == list(range(40))
    for record in records:
        assert sum(area["pixels"] for area in record["areas"]) == 96 * 80
        assert record["areas"][0]["class"] == "dark"  # the grey around the square
        square = record["areas"][1]
        assert square["class"] == "bright"
        assert abs(square["pixels"] - 31 * 31) < 200
