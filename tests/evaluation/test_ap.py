"""VOC's AP: cases computed by hand, published figures, and what must hold for all inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedet.contract.results import Detections
from edgedet.data.sample import Truth
from edgedet.evaluation.ap import Curve, best_threshold, eleven_point, every_point, match


def truth(*boxes, labels=None, ignore=None) -> Truth:
    n = len(boxes)
    return Truth(
        Path("x.jpg"),
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels if labels is not None else [0] * n, np.int64),
        np.asarray(ignore if ignore is not None else [False] * n, bool),
    )


def found(*boxes, scores, labels=None) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(labels if labels is not None else [0] * len(boxes), np.int64),
    )


def curve(correct: list[int], objects: int) -> Curve:
    scores = np.linspace(0.9, 0.1, len(correct), dtype=np.float32)
    return Curve(np.asarray(correct, bool), scores, objects, 0)


A, B, FAR = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("correct", "objects", "eleven", "every"),
    [
        # all found at once
        ([1, 1], 2, 1.0, 1.0),
        ([], 2, 0.0, 0.0),
        ([0, 0], 2, 0.0, 0.0),
        # one of two, at once: precision 1 up to recall 0.5 (r = 0 to 0.5: six points), 0 beyond
        ([1], 2, 6 / 11, 0.5),
        # wrong, right: precision 1/2 at recall 1
        ([0, 1], 1, 0.5, 0.5),
        # right, wrong, right: precision 1 to recall 0.5 (6 points), 2/3 to recall 1 (5 points)
        ([1, 0, 1], 2, (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3),
        # wrong, right, right: the envelope lifts recall 0.5 from 1/2 to 2/3
        ([0, 1, 1], 2, 2 / 3, 2 / 3),
        # recall 3/10 reaches the point 0.3, though 3 * 0.1 > 0.3 in binary floating point
        ([1, 1, 1], 10, 4 / 11, 0.3),
        # 7 of 10: r = 0 to 0.7
        ([1] * 7, 10, 8 / 11, 0.7),
    ],
)
def test_by_hand(correct, objects, eleven, every):
    c = curve(correct, objects)
    assert eleven_point(c) == pytest.approx(eleven, abs=1e-12)
    assert every_point(c) == pytest.approx(every, abs=1e-12)


def test_no_objects_is_not_zero():
    assert eleven_point(curve([0], 0)) is None
    assert every_point(curve([], 0)) is None


def test_the_lectures_formula_on_a_curve():
    c = curve([1, 1, 0, 1, 0, 0, 1, 0], 5)
    recall, precision = c.recall(), c.precision()
    by_formula = sum(max(precision[recall >= r - 1e-9], default=0.0) for r in np.arange(11) / 10) / 11
    assert eleven_point(c) == pytest.approx(by_formula)


def test_an_iou_equal_to_the_threshold_is_a_find():
    # 10 x 5 of 10 x 10: exactly 0.5; the development kit's ovmax >= minoverlap
    half = found((0, 0, 10, 5), scores=[0.9])
    assert match([half], [truth(A)], 0).correct.tolist() == [True]
    under = found((0, 0, 10, 4.99), scores=[0.9])
    assert match([under], [truth(A)], 0).correct.tolist() == [False]


def test_duplicates_are_false_positives():
    d = found(A, A, B, scores=[0.5, 0.9, 0.7])
    assert match([d], [truth(A, B)], 0).correct.tolist() == [True, True, False]


def test_a_taken_object_is_not_exchanged_for_the_next_best():
    # the second detection overlaps both objects, the taken one more: VOC calls it a duplicate
    d = found((0, 0, 10, 10), (0, 0, 10, 9), scores=[0.9, 0.8])
    t = truth((0, 0, 10, 10), (0, 2, 10, 9))
    assert match([d], [t], 0).correct.tolist() == [True, False]


def test_difficult_objects_count_neither_way():
    d = found(A, A, B, FAR, scores=[0.9, 0.8, 0.7, 0.6])
    c = match([d], [truth(A, B, ignore=[True, False])], 0)
    assert (c.correct.tolist(), c.objects, c.ignored) == ([True, False], 1, 1)


def test_classes_and_images_are_apart():
    d = [found(A, scores=[0.9], labels=[1]), found(A, scores=[0.8])]
    t = [truth(A), truth(A, labels=[1])]
    assert match(d, t, 0).correct.tolist() == [False]
    assert match(d, t, 1).correct.tolist() == [False]
    assert match(d[::-1], t, 0).correct.tolist() == [True]


def test_equal_scores_keep_the_order_given():
    d = [found(FAR, scores=[0.5]), found(A, scores=[0.5])]
    t = [truth(A), truth(A)]
    assert match(d, t, 0).correct.tolist() == [False, True]
    assert match(d[::-1], t[::-1], 0).correct.tolist() == [True, False]


def test_padillas_published_sample(shared):
    """7 images, 15 objects, 24 detections at IoU 0.3: 26.84 % 11-point, 24.56 % every-point.

    Padilla et al. 2020; the sample's corners are inclusive. The page adds up areas it had cut to four
    digits; the exact sum is 1/15 + 2/45 + 4/35 + 7/345 = 24.5687 %.
    """
    folder = shared / "eval_cases" / "voc_toy_padilla"
    truths, detections = [], []
    for file in sorted((folder / "groundtruths").glob("*.txt")):
        boxes = np.array([r.split()[1:] for r in file.read_text().splitlines()], np.float32)
        truths.append(truth(*inclusive(boxes)))
        rows = np.array(
            [r.split()[1:] for r in (folder / "detections" / file.name).read_text().splitlines()], np.float32
        )
        detections.append(found(*inclusive(rows[:, 1:]), scores=rows[:, 0]))
    c = match(detections, truths, 0, iou=0.3)
    assert (len(truths), c.objects, len(c.correct)) == (7, 15, 24)
    eleven, every = eleven_point(c), every_point(c)
    assert f"{100 * eleven:.2f}" == "26.84"
    assert every == pytest.approx(1 / 15 + 2 / 45 + 4 / 35 + 7 / 345, abs=1e-12)
    assert int(10000 * every) == 2456


def inclusive(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height with inclusive far corners -> xyxy with exclusive ones."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] + 1], axis=1)


# a busy machine must not fail a test
PATIENT = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def scenes(draw):
    """Truths on a coarse grid (so that overlaps and ties happen), detections near them or anywhere."""
    truths, detections = [], []
    serial = 0
    for _ in range(draw(st.integers(1, 4))):
        n, m = draw(st.integers(0, 4)), draw(st.integers(0, 6))
        corner = arrays(np.float32, (n, 2), elements=st.integers(0, 20).map(float))
        t0, side = draw(corner), draw(arrays(np.float32, (n, 2), elements=st.integers(1, 12).map(float)))
        ignore = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        truths.append(truth(*np.concatenate([t0, t0 + side], axis=1), ignore=ignore))
        d0 = draw(arrays(np.float32, (m, 2), elements=st.integers(0, 20).map(float)))
        ds = draw(arrays(np.float32, (m, 2), elements=st.integers(1, 12).map(float)))
        # different scores, in an order that hypothesis chooses
        scores = [(1 + draw(st.integers(0, 40)) * 32 + serial + k) / 4096 for k in range(m)]
        serial += m
        detections.append(found(*np.concatenate([d0, d0 + ds], axis=1), scores=scores))
    return detections, truths


@PATIENT
@given(scenes())
def test_perfect_detections_score_one(scene):
    _, truths = scene
    # objects that coincide share their best match, so they are kept apart here
    truths = [truth(*np.unique(t.boxes, axis=0)) for t in truths]
    perfect = [found(*t.boxes, scores=[0.9] * len(t.boxes)) for t in truths]
    c = match(perfect, truths, 0)
    if c.objects:
        assert eleven_point(c) == every_point(c) == 1.0
    else:
        assert eleven_point(c) is None


@PATIENT
@given(scenes(), st.data())
def test_a_duplicate_never_helps(scene, data):
    detections, truths = scene
    which = [i for i, d in enumerate(detections) if len(d)]
    if not which:
        return
    i = data.draw(st.sampled_from(which))
    k = data.draw(st.integers(0, len(detections[i]) - 1))
    d = detections[i]
    share = data.draw(st.sampled_from([1.0, 0.99, 0.5, 0.01]))
    doubled = list(detections)
    doubled[i] = found(*d.boxes, d.boxes[k], scores=[*d.scores, d.scores[k] * share])
    before, after = match(detections, truths, 0), match(doubled, truths, 0)
    if before.objects:
        assert eleven_point(after) <= eleven_point(before) + 1e-12
        assert every_point(after) <= every_point(before) + 1e-12


@PATIENT
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_images_and_boxes_does_not_matter(scene, random):
    detections, truths = scene
    before = match(detections, truths, 0)
    order = list(range(len(truths)))
    random.shuffle(order)
    mixed = []
    for d in (detections[i] for i in order):
        rows = list(range(len(d)))
        random.shuffle(rows)
        mixed.append(found(*d.boxes[rows], scores=d.scores[rows]))
    after = match(mixed, [truths[i] for i in order], 0)
    assert after.correct.tolist() == before.correct.tolist()


@PATIENT
@given(scenes())
def test_bounds_and_counts(scene):
    detections, truths = scene
    c = match(detections, truths, 0)
    assert c.objects + c.ignored == sum(len(t.boxes) for t in truths)
    assert c.correct.sum() <= c.objects
    assert len(c.correct) <= sum(len(d) for d in detections)
    if c.objects:
        assert 0 <= every_point(c) <= 1
        assert 0 <= eleven_point(c) <= 1


@PATIENT
@given(scenes())
def test_equals_a_loop_over_the_development_kits_rules(scene):
    detections, truths = scene
    assert match(detections, truths, 0).correct.tolist() == by_loop(detections, truths)


def by_loop(detections, truths, threshold=0.5):
    """VOCevaldet.m, written down once more as it stands there: sort, then decide one by one."""
    rows = sorted(
        ((-float(s), i, d.boxes[k]) for i, d in enumerate(detections) for k, s in enumerate(d.scores)),
        key=lambda r: r[0],
    )
    taken, correct = set(), []
    for _, i, box in rows:
        best, owner = -np.inf, None
        for j, gt in enumerate(truths[i].boxes):
            w = min(box[2], gt[2]) - max(box[0], gt[0])
            h = min(box[3], gt[3]) - max(box[1], gt[1])
            if w > 0 and h > 0:
                both = float(w * h)
                union = (box[2] - box[0]) * (box[3] - box[1]) + (gt[2] - gt[0]) * (gt[3] - gt[1]) - both
                if both / union > best:
                    best, owner = both / union, j
        if best < threshold:
            correct.append(False)
        elif not truths[i].ignore[owner]:
            correct.append((i, owner) not in taken)
            taken.add((i, owner))
    return correct


def test_the_best_threshold_is_where_f1_is_highest() -> None:
    # two classes, 3 objects; by score: right .9, right .8, wrong .7, wrong .6, right .5
    one = Curve(np.array([True, False, True]), np.array([0.9, 0.7, 0.5], np.float32), 2, 0)
    two = Curve(np.array([True, False]), np.array([0.8, 0.6], np.float32), 1, 0)
    # F1: 2/4, 4/5, 4/6, 4/7, 6/8
    score, f1 = best_threshold([one, two])
    assert score == pytest.approx(0.8)
    assert f1 == pytest.approx(0.8)
    nothing = Curve(np.array([False]), np.array([0.4], np.float32), 1, 0)
    assert best_threshold([nothing]) == (None, 0.0)  # objects are there, and none is found
    empty = Curve(np.array([False]), np.array([0.4], np.float32), 0, 3)
    assert best_threshold([empty]) == best_threshold([]) == (None, None)
