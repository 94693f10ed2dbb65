"""The NMS contract of edgedet.contract.nms, held against every implementation that can run here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.contract.boxes import pairwise_iou
from edgedet.contract.errors import EngineError
from edgedet.contract.nms import nms
from edgedet.contract.spec import Thresholds

Floats = npt.NDArray[np.float32]
Kept = set[tuple[int, int]]
Implementation = Callable[[Floats, Floats, Thresholds], Kept]


def reference(boxes: Floats, scores: Floats, t: Thresholds) -> Kept:
    index, labels = nms(boxes, scores, t)
    return set(zip(index.tolist(), labels.tolist(), strict=True))


def onnx_operator(boxes: Floats, scores: Floats, t: Thresholds) -> Kept:
    """ONNX's NonMaxSuppression; it has no pre-NMS limit and limits per class, so both stay unused."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = [
        numpy_helper.from_array(np.array([len(boxes)], np.int64), "most"),
        numpy_helper.from_array(np.array([t.iou], np.float32), "iou"),
        numpy_helper.from_array(np.array([t.score], np.float32), "score"),
    ]
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "score"], ["kept"])
    graph = helper.make_graph(
        [node],
        "nms",
        [helper.make_tensor_value_info("boxes", 1, (1, *boxes.shape)),
         helper.make_tensor_value_info("scores", 1, (1, *scores.T.shape))],
        [helper.make_tensor_value_info("kept", 7, (None, 3))],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (kept,) = session.run(None, {"boxes": boxes[None], "scores": np.ascontiguousarray(scores.T)[None]})
    return {(int(box), int(label)) for _, label, box in kept}


implementations = pytest.mark.parametrize("implementation", [reference, onnx_operator])
OPEN = Thresholds(score=0.1, iou=0.5, pre_nms=2000, max_detections=1000)


def scene(seed: int, count: int = 40, classes: int = 3) -> tuple[Floats, Floats]:
    """Clustered boxes, so that many overlap; no two scores alike."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 4, (count, 2)) * 20 + rng.uniform(0, 8, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 25, (count, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0, 1, count * classes, dtype=np.float32)).reshape(count, classes)
    return boxes, scores


@implementations
def test_golden_cases(implementation: Implementation) -> None:
    # IoU 1/3 with the first, and a copy of it
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]], np.float32)
    one_class = np.array([[0.9], [0.8], [0.7]], np.float32)
    assert implementation(boxes, one_class, OPEN) == {(0, 0), (1, 0)}
    two_classes = np.array([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]], np.float32)
    assert implementation(boxes, two_classes, OPEN) == {(0, 0), (1, 0), (2, 1)}


@implementations
def test_a_score_equal_to_the_threshold_is_dropped(implementation: Implementation) -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.5], [np.nextafter(np.float32(0.5), np.float32(1))]], np.float32)
    assert implementation(boxes, scores, Thresholds(score=0.5, iou=0.5)) == {(1, 0)}


@implementations
def test_an_iou_equal_to_the_threshold_is_kept(implementation: Implementation) -> None:
    # overlap 50, union 100: IoU exactly 0.5
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([[0.9], [0.8]], np.float32)
    assert implementation(boxes, scores, Thresholds(score=0.1, iou=0.5)) == {(0, 0), (1, 0)}
    assert implementation(boxes, scores, Thresholds(score=0.1, iou=0.49)) == {(0, 0)}


@implementations
def test_no_candidates(implementation: Implementation) -> None:
    boxes, scores = scene(0)
    assert implementation(boxes, scores * 0, OPEN) == set()


@pytest.mark.parametrize("seed", range(30))
def test_the_onnx_operator_agrees_with_the_reference(seed: int) -> None:
    boxes, scores = scene(seed)
    assert onnx_operator(boxes, scores, OPEN) == reference(boxes, scores, OPEN)


@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.booleans())
@settings(max_examples=60, deadline=None)
def test_kept_pairs_overlap_by_no_more_than_the_threshold(seed: int, iou: float, agnostic: bool) -> None:
    boxes, scores = scene(seed)
    t = Thresholds(score=0.3, iou=iou, pre_nms=2000, max_detections=1000, class_agnostic=agnostic)
    index, labels = nms(boxes, scores, t)
    overlap = pairwise_iou(boxes[index].astype(np.float64), boxes[index].astype(np.float64))
    rivals = np.triu(np.ones_like(overlap, bool), 1)
    if not agnostic:
        rivals &= labels[:, None] == labels[None, :]
    assert (overlap[rivals] <= iou + 1e-6).all()
    assert (np.diff(scores[index, labels]) <= 0).all()


def all_pairs(boxes: Floats, scores: Floats, t: Thresholds) -> list[tuple[int, int]]:
    """The contract word by word, over a matrix of all pairs in float64; (box, class), best first."""
    classes = scores.shape[1]
    found = [i for i, s in enumerate(scores.reshape(-1).tolist()) if s > t.score]
    found = sorted(found, key=lambda i: (-scores.reshape(-1)[i], i))[: t.pre_nms]
    exact = boxes.astype(np.float64)
    size = (exact[:, 2:] - exact[:, :2]).clip(min=0).prod(1)
    kept: list[int] = []
    for i in found:
        a, k = divmod(i, classes)
        for b, other in (divmod(j, classes) for j in kept):
            low, high = np.maximum(exact[a, :2], exact[b, :2]), np.minimum(exact[a, 2:], exact[b, 2:])
            overlap = (high - low).clip(min=0).prod()
            if (t.class_agnostic or k == other) and overlap > t.iou * (size[a] + size[b] - overlap):
                break
        else:
            kept.append(i)
    return [divmod(i, classes) for i in kept[: t.max_detections]]


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([0.3, 0.45, 0.5, 1.0]),
    st.sampled_from([5, 40, 2000]),
    st.sampled_from([1, 7, 100]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_reference_is_the_contract_word_by_word(
    seed: int, classes: int, iou: float, pre_nms: int, most: int, agnostic: bool
) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = scene(seed, 25, classes)
    if seed % 2:  # on a grid, so that equal overlaps, equal scores, copies and empty boxes occur
        boxes, scores = np.rint(boxes / 5) * np.float32(5), np.rint(scores * 8) / np.float32(8)
        boxes[rng.integers(25)] = 0
        boxes[rng.integers(25)] = [30, 30, 20, 40]  # turned around: no area
    t = Thresholds(score=0.3, iou=iou, pre_nms=pre_nms, max_detections=most, class_agnostic=agnostic)
    index, labels = nms(boxes, scores, t)
    assert index.dtype == labels.dtype == np.int64
    assert list(zip(index.tolist(), labels.tolist(), strict=True)) == all_pairs(boxes, scores, t)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_idempotent_and_permutation_invariant(seed: int) -> None:
    boxes, scores = scene(seed, classes=1)
    first, _ = nms(boxes, scores, OPEN)
    again, _ = nms(boxes[first], scores[first], OPEN)
    assert again.tolist() == list(range(len(first)))
    shuffle = np.random.default_rng(seed).permutation(len(boxes))
    other, _ = nms(boxes[shuffle], scores[shuffle], OPEN)
    assert shuffle[other].tolist() == first.tolist()


def test_ties_go_to_the_lower_index() -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (4, 1))
    index, _ = nms(boxes, np.full((4, 1), 0.5, np.float32), OPEN)
    assert index.tolist() == [0]
    apart = boxes + np.arange(4, dtype=np.float32)[:, None] * 100
    index, _ = nms(apart, np.full((4, 1), 0.5, np.float32), Thresholds(score=0.1, pre_nms=2))
    assert index.tolist() == [0, 1]


def test_limits_keep_the_best() -> None:
    boxes = np.array([[i * 20, 0, i * 20 + 10, 10] for i in range(50)], np.float32)
    scores = np.linspace(0.2, 0.9, 50, dtype=np.float32)[:, None]
    index, _ = nms(boxes, scores, Thresholds(score=0.1, pre_nms=10, max_detections=100))
    assert index.tolist() == list(range(49, 39, -1))
    index, _ = nms(boxes, scores, Thresholds(score=0.1, max_detections=3))
    assert index.tolist() == [49, 48, 47]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    boxes, scores = scene(1)
    broken = scores.copy()
    broken[3, 1] = value
    with pytest.raises(EngineError, match="not finite"):
        nms(boxes, broken, OPEN)
    boxes[2, 2] = value
    with pytest.raises(EngineError, match="not finite"):
        nms(boxes, scores, OPEN)
