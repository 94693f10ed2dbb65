"""Region proposals: Selective Search on real and degenerate pictures, the cache, and a graph's input."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import ImageError, SpecError, UnknownName
from edgedet.contract.files import atomic_path
from edgedet.contract.preprocess import place
from edgedet.contract.proposals import (
    CachedProposer,
    RegionInput,
    SelectiveSearch,
    cached,
    in_runs,
    make_proposer,
    runs,
)
from edgedet.contract.spec import Decode, Input, ModelSpec, Proposals, Tensor

GREY = np.full((90, 120, 3), 90, np.uint8)


def blocks() -> np.ndarray:
    """Grey with a red and a blue rectangle."""
    image = GREY.copy()
    image[20:60, 10:50] = (30, 40, 220)
    image[30:80, 70:110] = (210, 60, 40)
    return image


def best_overlap(boxes: np.ndarray, box: tuple[int, ...]) -> float:
    from edgedet.contract.boxes import iou

    return float(iou(boxes, np.asarray(box, np.float32)).max())


def test_objects_of_one_colour_are_proposed() -> None:
    found = SelectiveSearch()(blocks())
    assert (found.dtype, found.shape[1]) == (np.float32, 4)
    assert best_overlap(found, (10, 20, 50, 60)) > 0.85
    assert best_overlap(found, (70, 30, 110, 80)) > 0.85
    assert (found[:, :2] >= 0).all() and (found[:, 2:] <= [120, 90]).all()
    assert (found[:, 2:] - found[:, :2] >= 8).all()
    assert len(np.unique(found, axis=0)) == len(found)


def test_the_same_picture_gives_the_same_boxes_in_the_same_order() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    first = SelectiveSearch()(blocks())
    SelectiveSearch()(noise)  # OpenCV's own order would be another one now
    np.testing.assert_array_equal(SelectiveSearch()(blocks()), first)


def test_a_large_picture_is_searched_small_and_answered_in_its_own_pixels() -> None:
    large = np.repeat(np.repeat(blocks(), 8, axis=0), 8, axis=1)
    found = SelectiveSearch(side=120)(large)
    assert best_overlap(found, (80, 160, 400, 480)) > 0.8
    assert found[:, 2].max() <= 960 and found[:, 3].max() <= 720


def test_the_budget_keeps_the_first() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    everything = SelectiveSearch()(noise)
    assert len(everything) > 8
    np.testing.assert_array_equal(SelectiveSearch(most=8)(noise), everything[:8])


def test_a_time_limit_ends_the_search_with_what_was_found() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    some = SelectiveSearch(seconds=1e-9)(noise)
    assert 0 < len(some) < len(SelectiveSearch()(noise))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 2), (3, 3), (9, 400)])
def test_tiny_and_flat_pictures_give_what_there_is(shape: tuple[int, int]) -> None:
    found = SelectiveSearch()(np.full((*shape, 3), 7, np.uint8))
    assert found.ndim == 2 and np.isfinite(found).all()
    assert (found[:, 2:] <= [shape[1], shape[0]]).all()


def test_another_kind_of_picture_is_refused() -> None:
    with pytest.raises(ImageError):
        SelectiveSearch()(np.zeros((9, 9), np.uint8))


@pytest.mark.parametrize(
    "wrong", [{"side": 0}, {"scale": 1.5}, {"most": True}, {"smooth": -1}, {"seconds": float("nan")}]
)
def test_parameters_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="Selective Search"):
        make_proposer(Proposals("selective_search", 10, wrong))


def test_a_method_or_parameter_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownName, match="selective_search"):
        make_proposer(Proposals("selective_serch", 10))
    with pytest.raises(SpecError, match="colour"):
        make_proposer(Proposals("selective_search", 10, {"colour": 3}))


class Counting:
    """A proposer that says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.asked += 1
        return np.array([[0, 0, 10, 10], [4, 4, 20, 30]], np.float32)

    def identity(self) -> str:
        return "two boxes"


def test_the_cache_knows_a_picture_by_its_pixels(tmp_path: Path) -> None:
    counting = Counting()
    for image, asked in ((GREY, 1), (GREY.copy(), 1), (blocks(), 2), (GREY[:, ::-1], 2), (GREY[:80], 3)):
        found = CachedProposer(counting, tmp_path)(image)
        assert counting.asked == asked
        np.testing.assert_array_equal(found, [[0, 0, 10, 10], [4, 4, 20, 30]])


def test_what_a_killed_run_left_in_the_cache_is_removed_by_the_next_of_any_picture(tmp_path: Path) -> None:
    """Pictures lie in many folders, and the next run may look at none of those in this one."""
    proposals = Proposals("selective_search", 10)
    proposer = cached(proposals, tmp_path)
    assert isinstance(proposer, CachedProposer)
    left = proposer.path(GREY).parent / ".edgedet-write.killed.partial"
    left.mkdir(parents=True)
    (left / "half.npy").write_bytes(b"half")
    with atomic_path(tmp_path / "zz" / "living.npy") as living:
        living.write_bytes(b"")
        assert cached(proposals, tmp_path) is not None
        assert list(tmp_path.rglob("*.partial")) == [living.parent]


def test_other_parameters_are_other_boxes(tmp_path: Path) -> None:
    paths = {CachedProposer(SelectiveSearch(most=n), tmp_path).path(GREY) for n in (10, 20)}
    assert len(paths) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "other", "nan"])
def test_a_damaged_file_is_made_again_and_never_run(damage: str, tmp_path: Path) -> None:
    cached = CachedProposer(Counting(), tmp_path)
    good = cached(GREY)
    path = cached.path(GREY)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) - 3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        marker = tmp_path / "ran"
        np.save(path, np.array([_Runs(marker)], object), allow_pickle=True)
    elif damage == "other":
        np.save(path, np.zeros((2, 5), np.float32))
    else:
        np.save(path, np.full((2, 4), np.nan, np.float32))
    np.testing.assert_array_equal(cached(GREY), good)
    assert path.read_bytes() == whole
    assert not (tmp_path / "ran").exists()


class _Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_what_the_damaged_file_would_have_run(tmp_path: Path) -> None:
    """The test above would be empty if the pickle were harmless."""
    pickle.loads(pickle.dumps(_Runs(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


SPEC = ModelSpec(
    "regions",
    "detection",
    Input("images", 64, 128, (0.0,) * 3, (1.0,) * 3),
    (Tensor("boxes", "boxes", (None, 3, 4)), Tensor("scores", "scores", (None, 3, 1))),
    Decode("dense"),
    ("thing",),
    extra_inputs=(Tensor("rois", "proposals", (None, 3, 4)),),
    proposals=Proposals("selective_search", 3, {"side": 200}),
)


def test_a_graphs_input_is_in_network_pixels_and_padded_with_nothing() -> None:
    fill = RegionInput(SPEC, Counting())
    out = np.full((3, 4), 9, np.float32)
    # a frame of 64 x 32 pixels is doubled in both directions
    assert fill(np.zeros((32, 64, 3), np.uint8), place(64, 32, SPEC.input), out) == 2
    np.testing.assert_allclose(out, [[0, 0, 20, 20], [8, 8, 40, 60], [0, 0, 0, 0]])
    assert fill.name == "rois"


def test_more_proposals_than_rows_are_cut_and_boxes_end_at_the_input() -> None:
    fill = RegionInput(SPEC, Counting())
    out = np.zeros((1, 4), np.float32)
    assert fill(np.zeros((4, 4, 3), np.uint8), place(4, 4, SPEC.input), out) == 1
    np.testing.assert_allclose(out, [[0, 0, 128, 64]])


def test_the_spec_says_it_and_old_specs_say_nothing() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
    old = SPEC.with_(proposals=None, extra_inputs=())
    assert "proposals" not in old.to_json()
    assert ModelSpec.from_json(old.to_json()) == old


def test_proposals_that_do_not_fit_their_input_are_refused() -> None:
    assert SPEC.proposals is not None
    with pytest.raises(SpecError, match="4 proposals an image, but no float32 input"):
        SPEC.with_(proposals=replace(SPEC.proposals, count=4))
    with pytest.raises(SpecError, match="no float32 input"):
        SPEC.with_(extra_inputs=())
    with pytest.raises(SpecError, match=r"spec\.proposals"):
        ModelSpec.from_json(SPEC.to_json().replace('"count":3', '"count":"3"'))


def test_a_graph_that_takes_few_at_once_runs_as_often_as_there_are_boxes() -> None:
    boxes = np.zeros((2, 12, 4), np.float32)
    assert runs(boxes, 4) == [slice(0, 4)]  # none at all: a run all the same, for its outputs
    boxes[0, :3] = boxes[1, :5] = [1, 1, 9, 9]
    assert runs(boxes, 4) == [slice(0, 4), slice(4, 8)]
    assert runs(boxes[:1], 4) == [slice(0, 4)]
    boxes[1, 11] = [1, 1, 9, 9]
    assert runs(boxes, 4) == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_what_runs_give_stands_one_behind_the_other() -> None:
    boxes = np.zeros((1, 6, 4), np.float32)
    boxes[0, :3, 2:] = [[1, 1], [2, 2], [3, 3]]
    found = in_runs(lambda run: {"side": boxes[:, run, 2], "twice": 2 * boxes[:, run]}, boxes, 2)
    np.testing.assert_array_equal(found["side"], [[1, 2, 3, 0]])
    assert found["twice"].shape == (1, 4, 4)


def test_the_spec_of_a_graph_that_runs_several_times() -> None:
    assert SPEC.proposals is not None
    six = SPEC.with_(proposals=replace(SPEC.proposals, count=6, rows=3))
    assert ModelSpec.from_json(six.to_json()) == six
    assert six.proposals is not None and six.proposals.a_run == 3
    for wrong, message in (
        (replace(SPEC.proposals, count=7, rows=3), "7 proposals an image are no whole number of runs of 3"),
        (replace(SPEC.proposals, count=3, rows=6), "no whole number of runs"),
        (replace(SPEC.proposals, count=3, rows=0), "no whole number of runs"),
        (replace(SPEC.proposals, count=2, rows=1), "not a row for each of 1 proposals"),
    ):
        with pytest.raises(SpecError, match=message):
            SPEC.with_(proposals=wrong)
