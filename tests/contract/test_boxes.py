"""Box mathematics: known values, and numpy = torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedet.contract import boxes

coordinates = st.floats(-100, 100, width=32)
some_boxes = arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=coordinates)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], np.float32)
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), [[1, 1 / 3, 0, 0.04]], rtol=1e-6)


def test_giou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [10, 10, 20, 20], [0, 0, 5, 10]], np.float32)
    # the same; touching at a corner: IoU 0, hull 400, union 200; half of it: hull is the union
    np.testing.assert_allclose(boxes.giou(a, b), [1, -0.5, 0.5], rtol=1e-6)


def test_giou_falls_with_distance_where_iou_is_blind() -> None:
    a = torch.tensor([[0.0, 0, 10, 10]])
    near, far = torch.tensor([[20.0, 0, 30, 10]]), torch.tensor([[80.0, 0, 90, 10]])
    assert boxes.iou(a, near) == boxes.iou(a, far) == 0
    assert boxes.giou(a, far) < boxes.giou(a, near) < 0


def test_two_empty_boxes_overlap_by_nothing() -> None:
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert boxes.pairwise_iou(point, point) == 0
    inverted = np.array([[5, 5, 1, 1]], np.float32)
    assert boxes.area(inverted) == 0


@given(some_boxes, some_boxes)
def test_iou_is_symmetric_and_within_0_and_1(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
    forward, backward = boxes.pairwise_iou(a, b), boxes.pairwise_iou(b, a)
    np.testing.assert_array_equal(forward, backward.T)
    assert ((forward >= 0) & (forward <= 1 + 1e-6)).all()


@given(some_boxes)
def test_centre_form_is_the_inverse(a: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(boxes.from_centre(boxes.to_centre(a)), a, atol=1e-4)


@pytest.mark.parametrize("name", ["from_centre", "to_centre", "area", "sigmoid"])
@given(a=some_boxes)
def test_numpy_and_torch_agree(name: str, a: npt.NDArray[np.float32]) -> None:
    function = getattr(boxes, name)
    np.testing.assert_allclose(function(a), function(torch.from_numpy(a)).numpy(), rtol=1e-5, atol=1e-6)


@given(some_boxes, some_boxes)
def test_iou_and_clip_agree_between_numpy_and_torch(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]
) -> None:
    ours = boxes.pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), ours, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(boxes.clip(a, 20, 30), boxes.clip(torch.from_numpy(a), 20, 30).numpy())


def test_clip_keeps_boxes_inside() -> None:
    cut = boxes.clip(np.array([[-5, -5, 50, 50], [25, 1, 30, 2]], np.float32), 20, 10)
    np.testing.assert_array_equal(cut, [[0, 0, 20, 10], [20, 1, 20, 2]])


def test_sigmoid_and_softmax_do_not_overflow() -> None:
    x = np.array([-1e4, 0, 1e4], np.float32)
    np.testing.assert_array_equal(boxes.sigmoid(x), [0, 0.5, 1])
    np.testing.assert_array_equal(boxes.softmax(x, 0), [0, 0, 1])


# deltas -------------------------------------------------------------------------------------------------

SSD = (0.1, 0.1, 0.2, 0.2)


def test_deltas_as_computed_by_hand() -> None:
    anchor = np.array([[10, 20, 30, 60]], np.float32)  # centre (20, 40), 20 x 40
    box = np.array([[20, 35, 30, 55]], np.float32)  # centre (25, 45), 10 x 20
    plain = [[5 / 20, 5 / 40, -np.log(2), -np.log(2)]]
    np.testing.assert_allclose(boxes.encode_deltas(box, anchor), plain, rtol=1e-6)
    scaled = boxes.encode_deltas(box, anchor, SSD)
    np.testing.assert_allclose(scaled, [[2.5, 1.25, -5 * np.log(2), -5 * np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(boxes.apply_deltas(scaled, anchor, SSD), box, rtol=1e-6)


def test_no_delta_enlarges_a_side_more_than_62_times() -> None:
    anchor = np.array([[-8, -8, 8, 8], [0, 0, 0, 0]], np.float32)
    got = boxes.apply_deltas(np.full((2, 4), 1e4, np.float32) * [0, 0, 1, 1], anchor)
    np.testing.assert_allclose(got, [[-500, -500, 500, 500], [0, 0, 0, 0]], rtol=1e-5)


@pytest.mark.parametrize("variances", [(1.0, 1.0, 1.0, 1.0), SSD])
def test_deltas_are_torchvisions_and_numpys(variances: tuple[float, ...]) -> None:
    from torchvision.models.detection._utils import BoxCoder

    rng = np.random.default_rng(0)

    def some(n: int) -> npt.NDArray[np.float32]:
        corner = rng.uniform(0, 200, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(1, 120, (n, 2))], 1).astype(np.float32)

    anchor, box = some(200), some(200)
    coder = BoxCoder(tuple(1 / v for v in variances))
    theirs = coder.encode_single(torch.from_numpy(box), torch.from_numpy(anchor))
    ours = boxes.encode_deltas(torch.from_numpy(box), torch.from_numpy(anchor), variances)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        boxes.encode_deltas(box, anchor, variances), ours.numpy(), rtol=1e-4, atol=1e-5
    )

    deltas = torch.from_numpy(rng.normal(scale=3, size=(200, 4)).astype(np.float32))  # some beyond the clip
    theirs = coder.decode_single(deltas, torch.from_numpy(anchor))
    ours = boxes.apply_deltas(deltas, torch.from_numpy(anchor), variances)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    again = boxes.apply_deltas(deltas.numpy(), anchor, variances)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, ours.numpy(), rtol=1e-4, atol=1e-3)


def test_a_box_for_each_of_several_classes() -> None:
    anchor = torch.tensor([[0.0, 0, 10, 10], [10.0, 10, 30, 30]])
    deltas = torch.zeros(2, 3, 4)
    deltas[1, 2, 0] = 0.5
    got = boxes.apply_deltas(deltas, anchor[:, None, :])
    assert got.shape == (2, 3, 4)
    assert got[1, 2].tolist() == [20, 10, 40, 30]
    assert got[1, 1].tolist() == [10, 10, 30, 30]
