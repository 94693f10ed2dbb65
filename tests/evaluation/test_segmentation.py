"""Dice, IoU, accuracy and trimaps: by hand, against scikit-learn and scipy, and what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedet.contract.spec import VOID
from edgedet.evaluation.segmentation import Confusion, trimap


def confusion(truth, predicted, classes: int) -> Confusion:
    made = Confusion(classes)
    made.add(np.array(truth, np.uint8), np.array(predicted, np.uint8))
    return made


def test_by_hand():
    truth = [[0, 0, 1, 1], [0, 2, 1, 255]]
    predicted = [[0, 1, 1, 1], [0, 0, 2, 2]]
    found = confusion(truth, predicted, 4)
    assert found.matrix.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found.matrix.dtype == np.int64
    assert (found.truth.tolist(), found.predicted.tolist(), found.pixels) == ([3, 3, 1, 0], [3, 3, 1, 0], 7)
    assert found.iou()[:3].tolist() == [2 / 4, 2 / 4, 0]
    assert found.dice()[:3].tolist() == [4 / 6, 4 / 6, 0]
    assert np.isnan(found.iou()[3])  # in neither: not 0, not 1
    assert np.isnan(found.dice()[3])
    assert found.pixel_accuracy() == 4 / 7


def test_images_add_up():
    """One class right in one image and wrong in another: the counts are added, not the figures."""
    found = confusion([[0, 0, 0, 1]], [[0, 0, 0, 1]], 2)
    found.add(np.array([[1, 1, 0, 0]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8))
    assert found.iou().tolist() == [5 / 7, 1 / 3]
    assert found.dice().tolist() == [10 / 12, 2 / 4]


def test_a_prediction_of_none_of_the_classes_is_a_miss():
    found = confusion([[0, 0, 1, 255]], [[0, 255, 255, 255]], 2)
    assert found.missed.tolist() == [1, 1]
    assert found.predicted.tolist() == [1, 0]
    assert found.iou().tolist() == [1 / 2, 0]
    assert found.pixel_accuracy() == 1 / 3


def test_nothing_counted():
    found = confusion([[255, 255]], [[0, 1]], 2)
    assert np.isnan(found.iou()).all()
    assert found.pixel_accuracy() is None


def test_only_where():
    found = Confusion(2)
    where = np.array([[True, True, False]])
    found.add(np.array([[0, 255, 1]], np.uint8), np.array([[1, 1, 1]], np.uint8), where=where)
    assert found.matrix.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ([[0, 1]], [[0], [1]], r"the prediction is \(2, 1\), the truth \(1, 2\): resize it first"),
        ([[0, 3]], [[0, 1]], "the truth holds 3, expected 0 to 2 or 255"),
        ([[0, 255]], [[0, 9]], "the prediction holds 9, expected 0 to 2 or 255"),
    ],
)
def test_what_cannot_be_compared(truth, predicted, expected):
    with pytest.raises(ValueError, match=expected):
        confusion(truth, predicted, 3)


@pytest.mark.parametrize("classes", [2, 5, 255])
def test_scikit_learn_agrees(classes):
    from sklearn import metrics

    rng = np.random.default_rng(classes)
    found = Confusion(classes)
    truths, predictions = [], []
    for _ in range(3):
        truth, predicted = rng.integers(0, classes, (2, 17, 23), np.uint8)
        truth[rng.random(truth.shape) < 0.2] = VOID
        found.add(truth, predicted)
        truths.append(truth[truth != VOID])
        predictions.append(predicted[truth != VOID])
    t, p = np.concatenate(truths), np.concatenate(predictions)
    options = {"labels": range(classes), "average": None, "zero_division": np.nan}
    there = found.truth + found.predicted > 0
    assert np.array_equal(found.matrix, metrics.confusion_matrix(t, p, labels=range(classes)))
    with np.errstate(all="ignore"):
        f1 = metrics.f1_score(t, p, **options)
        jaccard = metrics.jaccard_score(t, p, labels=range(classes), average=None, zero_division=0)
    assert np.allclose(found.dice()[there], f1[there], rtol=1e-12)
    assert np.allclose(found.iou()[there], jaccard[there], rtol=1e-12)
    assert found.pixel_accuracy() == pytest.approx(metrics.accuracy_score(t, p), rel=1e-12)


maps = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, VOID])),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3])),
    )
)


@settings(deadline=None)
@given(maps)
def test_what_always_holds(pair):
    truth, predicted = pair
    found = confusion(truth, predicted, 4)
    iou, dice = found.iou(), found.dice()
    known = ~np.isnan(iou)
    for k in range(4):  # the definition, in sets of pixels
        mine, theirs = (truth == k), (predicted == k) & (truth != VOID)
        union = int((mine | theirs).sum())
        assert known[k] == (union > 0)
        if union:
            assert iou[k] == int((mine & theirs).sum()) / union
    assert np.allclose(dice[known], 2 * iou[known] / (1 + iou[known]), rtol=1e-12)
    assert found.pixels == (truth != VOID).sum()
    # a perfect prediction is 1 for every class there is
    perfect = confusion(truth, np.where(truth == VOID, 0, truth), 4)
    assert np.array_equal(perfect.iou()[~np.isnan(perfect.iou())], np.ones(len(set(truth.flat) - {VOID})))
    # truth and prediction play the same part
    swapped = confusion(predicted, truth, 4)
    if not (truth == VOID).any():
        assert np.array_equal(swapped.iou(), iou, equal_nan=True)
    # other numbers for the classes give the same figures
    order = np.array([2, 0, 3, 1])
    table = np.append(order, np.full(252, VOID)).astype(np.uint8)
    assert np.array_equal(confusion(table[truth], table[predicted], 4).iou()[order], iou, equal_nan=True)
    # and it does not matter in how many parts the pixels come
    parts = Confusion(4)
    for row, column in zip(truth, predicted, strict=True):
        parts.add(row[None], column[None])
    assert np.array_equal(parts.matrix, found.matrix)


# -- trimap


def test_trimap_by_hand():
    truth = np.zeros((5, 8), np.uint8)
    truth[:, 5:] = 1
    assert trimap(truth, 1).tolist() == [[c in (4, 5) for c in range(8)]] * 5
    assert trimap(truth, 2).tolist() == [[c in (3, 4, 5, 6) for c in range(8)]] * 5
    point = np.zeros((7, 7), np.uint8)
    point[3, 3] = VOID
    assert np.argwhere(trimap(point, 2)).tolist() == [[y, x] for y in range(1, 6) for x in range(1, 6)]
    assert not trimap(np.full((4, 4), 3, np.uint8), 3).any()
    with pytest.raises(ValueError, match="the radius is 0, expected at least 1"):
        trimap(truth, 0)


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 2)),
       st.integers(1, 25))  # fmt: skip
def test_trimap_is_a_distance_to_other_labels(truth, radius):
    from scipy import ndimage

    wanted = np.zeros(truth.shape, bool)
    for k in range(3):
        mine = truth == k
        if mine.any() and not mine.all():
            wanted |= mine & (ndimage.distance_transform_cdt(mine, "chessboard") <= radius)
    assert np.array_equal(trimap(truth, radius), wanted)
    assert (trimap(truth, radius) <= trimap(truth, radius + 1)).all()


def test_errors_at_the_boundary_show_in_the_trimap_first():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    shifted = np.roll(truth, 2, axis=1)
    found = []
    for radius in (1, 3, 6):
        band = Confusion(2)
        band.add(truth, shifted, where=trimap(truth, radius))
        found.append(float(band.iou().mean()))
    assert found == sorted(found)
    assert found[-1] < confusion(truth, shifted, 2).iou().mean()
