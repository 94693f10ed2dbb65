"""Mask AP: counted by hand, and as pycocotools counts it."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from edgedet.contract.results import Detections, Instances
from edgedet.evaluation.mask_ap import MaskAP, mask_iou

SIZE = (40, 60)


def found(boxes, scores, labels, masks=None) -> Instances:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    d = Detections(boxes, np.asarray(scores, np.float32), np.asarray(labels, np.int64))
    return Instances(d, np.ones((len(boxes), 20, 20), np.float32) if masks is None else masks)


def rectangle(x0, y0, x1, y1) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_overlap_is_of_masks_not_of_boxes():
    # cells are no larger than pixels here, so that a full mask is the whole box
    masks = np.stack([rectangle(10, 10, 30, 20), rectangle(20, 10, 30, 20), rectangle(0, 0, 5, 5)])
    one = found([[10, 10, 30, 20]], [1], [0])
    got = mask_iou(one, np.array([0]), masks, np.array([False, False, False]))
    np.testing.assert_allclose(got, [[1, 0.5, 0]])
    got = mask_iou(one, np.array([0]), masks, np.array([True, True, True]))
    np.testing.assert_allclose(got, [[1, 0.5, 0]])
    half = np.ones((1, 20, 20), np.float32)
    half[:, :, 10:] = 0
    got = mask_iou(found([[10, 10, 30, 20]], [1], [0], half), np.array([0]), masks, np.zeros(3, bool))
    np.testing.assert_allclose(got, [[0.5, 0, 0]])


def test_by_hand():
    """Two objects; the best detection has IoU 0.6 with one, the next nothing, the third the other exactly.

    At 0.5, 0.55 and 0.6: right, wrong, right: precision 1 up to recall 0.5, 2/3 beyond: (51 + 50 * 2/3) /
    101.
    Above: wrong, wrong, right: 1/3 up to recall 0.5: 51 / 3 / 101.
    """
    ap = MaskAP(1)
    truth = np.stack([rectangle(0, 0, 20, 10), rectangle(30, 20, 50, 30)])
    ap.add(
        found([[0, 0, 12, 10], [0, 30, 10, 40], [30, 20, 50, 30]], [0.9, 0.8, 0.7], [0, 0, 0]),
        truth,
        np.zeros(2, np.int64),
        np.zeros(2, bool),
    )
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    result = ap.result()
    assert result.ap50 == pytest.approx(low)
    assert result.ap75 == pytest.approx(high)
    assert result.ap == pytest.approx((3 * low + 7 * high) / 10)


def test_ignored_objects_count_neither_way():
    ap = MaskAP(1)
    truth = np.stack([rectangle(0, 0, 20, 10), rectangle(30, 20, 50, 30)])
    boxes = [[30, 20, 40, 30], [40, 20, 50, 30], [0, 0, 20, 10]]
    ap.add(found(boxes, [0.9, 0.8, 0.7], [0] * 3), truth, np.zeros(2, np.int64), np.array([False, True]))
    assert ap.result().ap == pytest.approx(1.0)


def test_nothing_to_find_and_nothing_found():
    assert MaskAP(2).result().ap is None
    ap = MaskAP(2)
    ap.add(found([], [], []), rectangle(0, 0, 9, 9)[None], np.array([1]), np.array([False]))
    result = ap.result()
    assert result.ap == 0 and result.per_class == (None, 0.0)


def test_equals_pycocotools():
    pytest.importorskip("pycocotools")
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(5)
    ours, objects, results = MaskAP(3), [], []

    def encoded(mask):
        return rle.encode(np.asfortranarray(mask.astype(np.uint8)))

    for image in range(1, 26):
        n = int(rng.integers(0, 6))
        low = rng.integers(0, 20, (n, 2))
        boxes = np.concatenate([low, low + rng.integers(10, 20, (n, 2))], axis=1)
        truth = np.zeros((n, *SIZE), bool)
        for mask, box in zip(truth, boxes, strict=True):
            mask[:] = rectangle(*box)
            mask &= rng.random(SIZE) > 0.1
        labels, ignore = rng.integers(0, 3, n), rng.random(n) < 0.2
        copies = np.concatenate([boxes, boxes]) + rng.integers(-1, 2, (2 * n, 4))
        probability = np.clip(rng.random((2 * n, 7, 7)) + 0.4, 0, 1).astype(np.float32)
        guess = np.where(rng.random(2 * n) < 0.8, np.tile(labels, 2), rng.integers(0, 3, 2 * n))
        some = found(copies, rng.random(2 * n), guess, probability)
        ours.add(some, truth, labels.astype(np.int64), ignore)
        for mask, label, crowd in zip(truth, labels, ignore, strict=True):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "segmentation": encoded(mask),
                    "area": int(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(crowd),
                }
            )
        for i in range(2 * n):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(guess[i]) + 1,
                    "segmentation": encoded(some.paste(i, SIZE)),
                    "score": float(some.detections.scores[i]),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, 26)],
            "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
            "annotations": objects,
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    got = ours.result()
    assert 0.05 < judge.stats[0] < 0.95
    assert [got.ap, got.ap50, got.ap75] == pytest.approx(judge.stats[:3].tolist(), abs=1e-9)
