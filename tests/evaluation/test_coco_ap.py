"""COCO's AP: the published figures, and pycocotools as the oracle."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.results import Detections
from edgedet.data import open_dataset
from edgedet.data.sample import Truth
from edgedet.evaluation.coco_ap import coco_ap


@pytest.fixture(scope="module")
def val2014(shared: Path, tmp_path_factory):
    """COCO's own example, through our loader: 100 images of val2014 and made-up detections."""
    folder = tmp_path_factory.mktemp("coco")
    case = shared / "eval_cases" / "cocoapi_val2014_100"
    file = folder / "instances_val2014_100.json"
    shutil.copy(case / file.name, file)
    raw = json.loads(file.read_text())
    for image in raw["images"]:
        (folder / image["file_name"]).touch()  # no pixel is looked at
    data = open_dataset(f"coco:{file}")
    labels = {c["id"]: data.classes.index(c["name"]) for c in raw["categories"]}
    rows: dict[str, list[dict]] = {image["file_name"]: [] for image in raw["images"]}
    names = {image["id"]: image["file_name"] for image in raw["images"]}
    for r in json.loads((case / "instances_val2014_fakebbox100_results.json").read_text()):
        rows[names[r["image_id"]]].append(r)
    detections = []
    for t in data.truths:
        mine = rows[t.path.name]
        boxes = np.array([r["bbox"] for r in mine], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        detections.append(
            Detections(
                boxes.astype(np.float32),
                np.array([r["score"] for r in mine], np.float32),
                np.array([labels[r["category_id"]] for r in mine], np.int64),
            )
        )
    return data, detections


def test_published_figures(val2014):
    data, detections = val2014
    assert (len(data), len(data.classes)) == (100, 80)
    found = coco_ap(detections, data.truths, len(data.classes))
    assert f"{found.ap:.3f} {found.ap50:.3f} {found.ap75:.3f}" == "0.505 0.697 0.573"


def oracle(detections, truths, classes):
    """The same through pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(things, extra):
        for i, t in enumerate(things, 1):
            for k, (x0, y0, x1, y1) in enumerate(t.boxes.astype(float)):
                w, h = x1 - x0, y1 - y0
                base = {"image_id": i, "category_id": int(t.labels[k]) + 1, "bbox": [x0, y0, w, h]}
                yield base | extra(t, k, w * h)

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        objects = rows(truths, lambda t, k, area: {"iscrowd": int(t.ignore[k]), "area": area})
        gt.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(truths))],
            "categories": [{"id": k + 1} for k in range(classes)],
            "annotations": [o | {"id": n} for n, o in enumerate(objects, 1)],
        }
        gt.createIndex()
        results = list(rows(detections, lambda t, k, area: {"score": float(t.scores[k])}))
        evaluation = COCOeval(gt, gt.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for i in range(12):
        n, extra = int(rng.integers(0, 8)), int(rng.integers(0, 10))
        corner, side = rng.uniform(0, 200, (n + extra, 2)), rng.uniform(5, 120, (n + extra, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.integers(0, 4, n + extra)
        truths.append(Truth(Path(f"{i}"), boxes[:n].astype(np.float32), labels[:n], rng.random(n) < 0.2))
        moved = (boxes + rng.normal(0, 5, boxes.shape)).astype(np.float32)
        # some objects are found twice
        again = rng.integers(0, n + extra, 4) if n + extra else np.zeros(0, np.int64)
        moved, labels = np.concatenate([moved, moved[again] + 1]), np.concatenate([labels, labels[again]])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores = rng.permutation(len(moved)).astype(np.float32) / max(1, len(moved))
        detections.append(Detections(moved, scores, labels))
    # ranked over all images, so no ties
    total = sum(len(d) for d in detections)
    ranks = iter(rng.permutation(total) / total)
    detections = [
        Detections(d.boxes, np.array([next(ranks) for _ in range(len(d))], np.float32), d.labels)
        for d in detections
    ]
    found = coco_ap(detections, truths, 4)
    expected = oracle(detections, truths, 4)
    assert [found.ap, found.ap50, found.ap75] == pytest.approx(expected, abs=1e-9)
    assert 0 < found.ap < 1
    assert found.ap == pytest.approx(np.mean([v for v in found.per_class if v is not None]))


def test_nothing_found_and_nothing_there():
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    one = Truth(Path("a"), boxes, np.zeros(1, np.int64), np.zeros(1, bool))
    none = Truth(Path("a"), boxes[:0], np.zeros(0, np.int64), np.zeros(0, bool))
    perfect = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int64))
    assert coco_ap([Detections.empty()], [one], 2).ap == 0.0
    assert coco_ap([perfect], [one], 2).per_class == (pytest.approx(1.0), None)
    assert coco_ap([perfect], [none], 2).ap is None
