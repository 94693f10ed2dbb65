"""Mosaics, bars around images, and how large objects are in what YOLO's recipe makes of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.contract.preprocess import preprocess
from edgedet.contract.spec import Input
from edgedet.data import Problems, Sample, open_dataset

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from edgedet.data.augment import DropThin, Letterbox, Photometric, apply, cut  # noqa: E402
from edgedet.data.augment_mosaic import VISIBLE, Mosaic, mosaic_transform  # noqa: E402
from edgedet.training.batches import Samples  # noqa: E402
from edgedet.training.recipe import RECIPES  # noqa: E402
from edgedet.training.tasks import TRAINING  # noqa: E402

FILL = (124, 116, 104)


def painted(number: int, rows: int = 120, columns: int = 180) -> Sample:
    """Three rectangles, of the greys 40 + 15 number + (0, 5, 10), on a ground of number; labels likewise."""
    rng = np.random.default_rng(number)
    image = np.full((rows, columns, 3), number, np.uint8)
    boxes = np.zeros((3, 4), np.float32)
    for k in range(3):
        x, y = columns * k // 3 + int(rng.integers(2, 20)), int(rng.integers(2, rows // 2))
        w, h = int(rng.integers(8, 38)), int(rng.integers(8, rows // 2 - 4))
        image[y : y + h, x : x + w] = 40 + 15 * number + 5 * k
        boxes[k] = x, y, x + w, y + h
    return Sample(str(number), image, boxes, np.arange(3) + 3 * number, np.zeros(3, bool))


def extent(grey: np.ndarray, value: int) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 of the pixels of a value; None if there is none."""
    y, x = np.nonzero(grey == value)
    return (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1) if len(x) else None


def test_a_mosaic_moves_boxes_with_their_pixels() -> None:
    """Exactly, where nothing is resized."""
    transform, ignored = v2.Compose([Mosaic((120, 180), (1.0, 1.0)), DropThin(1.0)]), 0
    for seed in range(60):
        four = [painted(4 * (seed % 3) + k) for k in range(4)]
        torch.manual_seed(seed)
        image, targets = apply(transform, *four)
        grey = image[0].numpy()
        assert grey.shape == (120, 180)
        found = dict(zip(targets.labels.tolist(), targets.boxes.numpy(), strict=True))
        skip = dict(zip(targets.labels.tolist(), targets.ignore.tolist(), strict=True))
        for sample in four:
            for label, box in zip(sample.labels.tolist(), sample.boxes, strict=True):
                where = extent(grey, 40 + 5 * label)
                assert (label in found) == (where is not None)
                if where is not None:
                    assert tuple(found[label]) == where
                    # one whose centre is cut off loses more than half of a side
                    left = np.array([where[2] - where[0], where[3] - where[1]]) / (box[2:] - box[:2])
                    assert skip[label] or (left.min() >= 0.5 and left.prod() >= VISIBLE)
                    assert not skip[label] or left.min() <= 0.5 or left.prod() <= VISIBLE
                    ignored += skip[label]
    assert ignored >= 20


def test_an_object_of_which_little_is_visible_is_ignored() -> None:
    """Of 100 x 100 px a window shows 60 x 55, its centre inside: a third is."""
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 40, 40], [90, 0, 100, 10]])
    sample = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(200, 200)),
        "ignore": torch.zeros(3, dtype=torch.bool),
    }
    window = torch.tensor([0, 0, 60, 55])
    assert cut(sample, window)["ignore"].tolist() == [False, False, True]
    assert cut(sample, window, 0.32)["ignore"].tolist() == [False, False, True]
    out = cut(sample, window, 0.34)
    assert out["ignore"].tolist() == [True, False, True]
    assert out["boxes"][0].tolist() == [0, 0, 60, 55]


def test_tiles_show_their_images_at_the_scale_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images of one object each, at half the size: 2 x 2 whole images."""
    image = np.zeros((100, 200, 3), np.uint8)
    box = np.array([[40, 20, 120, 60]], np.float32)
    samples = [Sample("a", image, box, np.array([k]), np.zeros(1, bool)) for k in range(4)]
    # tiles meet in the middle: each shows its whole image
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.5))
    _, targets = apply(v2.Compose([Mosaic((80, 160), (0.5, 0.5))]), *samples)
    assert targets.labels.tolist() == [0, 1, 2, 3]
    corner = np.array([16, 8, 48, 24])  # x 160/200 x 1/2, y 80/100 x 1/2
    for k, shift in enumerate(([0, 0, 0, 0], [80, 0, 80, 0], [0, 40, 0, 40], [80, 40, 80, 40])):
        assert targets.boxes[k].tolist() == (corner + shift).tolist()
    assert not targets.ignore.any()


def test_a_mosaic_of_images_without_objects() -> None:
    empty = replace(
        painted(1), boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), ignore=np.zeros(0, bool)
    )
    ignored = replace(painted(2), ignore=np.ones(3, bool))
    image, targets = apply(mosaic_transform((96, 64)), empty, ignored, empty, ignored)
    assert image.shape == (3, 96, 64)
    assert targets.boxes.shape[1] == 4
    assert targets.ignore.all()


@pytest.mark.parametrize(("width", "height"), [(180, 120), (64, 90), (500, 280), (97, 41), (320, 320)])
def test_bars_lie_where_they_lie_at_run_time(width: int, height: int) -> None:
    """One rule: `contract.preprocess` with "letterbox" gives the same boxes, and nearly the same pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    boxes = np.array([[0, 0, width, height], [5, 7, 30, 40]], np.float32)
    rule = Input("images", 240, 320, (0.0,) * 3, (1.0,) * 3, resize="letterbox")
    theirs, where = preprocess(image[..., ::-1], rule)
    sample = Sample("a", image, boxes, np.arange(2), np.zeros(2, bool))
    ours, targets = apply(v2.Compose([Letterbox((240, 320), FILL)]), sample)
    np.testing.assert_allclose(targets.boxes, where.to_network(boxes), atol=1e-4)
    rows, columns = where.inner
    difference = np.abs(ours.numpy()[:, rows, columns] - 255 * theirs[0][:, rows, columns])
    assert difference.mean() < 1.5
    bars = np.ones((240, 320), bool)
    bars[rows, columns] = False
    for channel, value in enumerate(FILL):
        assert (ours[channel].numpy()[bars] == value).all()


def test_bars_by_hand() -> None:
    """180 x 120 into 320 x 320: 320 x 213, 53 rows above it and 54 below."""
    box = np.array([[0, 0, 180, 120]], np.float32)
    sample = Sample("a", np.zeros((120, 180, 3), np.uint8), box, np.zeros(1, np.int64), np.zeros(1, bool))
    image, targets = apply(v2.Compose([Letterbox((320, 320), FILL)]), sample)
    assert targets.boxes.tolist() == [[0, 53, 320, 266]]
    assert (image[0, 53:266] == 0).all()
    assert (image[0, :53] == FILL[0]).all()
    assert (image[0, 266:] == FILL[0]).all()


# YOLO's recipe ------------------------------------------------------------------------------------------


@dataclass
class Boxes:
    """A data set of truths whose images are black: only boxes are looked at."""

    truths: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int]]]
    name: str = "boxes"
    problems: Problems = field(default_factory=Problems)
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.truths)

    def load(self, index: int, **_: object) -> Sample:
        """Of the truth's size."""
        self.asked.append(index)
        boxes, ignore, size = self.truths[index]
        return Sample("a", np.zeros((*size, 3), np.uint8), boxes, np.zeros(len(boxes), np.int64), ignore)


def sides(boxes: np.ndarray, ignore: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logarithms of sqrt(area) at 320 x 320, of the objects that are to be found."""
    w, h = (boxes[:, 2:] - boxes[:, :2])[~ignore].T
    return np.log(320 * np.sqrt(w * h / (size[0] * size[1])))


def recipes(data: Boxes) -> Samples:
    """What YOLO's recipe makes of it; without colour, which takes most of the time."""
    recipe = RECIPES["yolo"]
    make = TRAINING["detection"].transform

    def uncoloured(whole: v2.Compose) -> v2.Compose:
        return v2.Compose([t for t in whole.transforms if not isinstance(t, Photometric)])

    plain, mild = (uncoloured(make((320, 320), recipe, FILL, m)) for m in (False, True))
    mosaic = uncoloured(mosaic_transform((320, 320)))
    begins = recipe.epochs - recipe.mild_epochs
    return Samples(
        data, plain, 0, mild=mild, mild_from=begins, mosaic=mosaic, mosaics=recipe.mosaic  # type: ignore[arg-type]
    )  # fmt: skip


def measured(data: Boxes, *, mild: bool, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes as they are, and as an epoch of the recipe shows them."""
    samples, epoch = recipes(data), RECIPES["yolo"].epochs - 1 if mild else 0
    seen = [samples[epoch, index][1] for index in range(0, len(data), step)]
    return (
        np.concatenate([sides(*truth) for truth in data.truths]),
        np.concatenate([sides(t.boxes.numpy(), t.ignore.numpy(), (320, 320)) for t in seen]),
    )


def synthetic(count: int) -> Boxes:
    """As VOC's: 1 to 4 objects of 0.04 to 1 of a photograph's side, many of them large."""
    rng = np.random.default_rng(0)
    truths = []
    for _ in range(count):
        height, width = size = (240, 320) if rng.random() < 0.7 else (320, 240)
        n = int(rng.choice([1, 2, 3, 8], p=[0.5, 0.25, 0.15, 0.1]))
        side = np.exp(rng.normal(-1.0, 0.7, n)).clip(0.04, 0.95) / (1 + 0.15 * (n - 1))
        w, h = side * width, side * height
        x, y = rng.random(n) * (width - w), rng.random(n) * (height - h)
        boxes = np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)
        truths.append((boxes, np.zeros(n, bool), size))
    return Boxes(truths)


@pytest.mark.parametrize("mild", [False, True])
def test_objects_are_as_large_as_without_augmentation(mild: bool) -> None:
    whole, seen = measured(synthetic(800), mild=mild, step=1)
    assert 0.95 < math.exp(seen.mean() - whole.mean()) < 1.05
    assert seen.std() > 0.9 * whole.std()


@pytest.mark.parametrize("mild", [False, True])
def test_vocs_objects_are_as_large_as_without_augmentation(shared: Path, mild: bool) -> None:
    """In the geometric mean, over train."""
    train = open_dataset(f"voc:{shared / 'VOCdevkit' / 'VOC2007'}", "train")
    boxes = Boxes([(t.boxes, t.ignore, t.size or (0, 0)) for t in train.truths])
    whole, seen = measured(boxes, mild=mild, step=5)
    assert 0.95 < math.exp(seen.mean() - whole.mean()) < 1.05
    assert seen.std() > 0.9 * whole.std()


def test_a_share_of_the_samples_is_made_of_four_but_for_the_last_epochs() -> None:
    """Which, depends on seed, epoch and index alone."""
    recipe, truths = RECIPES["yolo"], synthetic(80).truths
    asked: dict[str, dict[int, list[int]]] = {}
    for name, epoch, order in (("early", 0, 1), ("again", 0, -1), ("late", recipe.epochs - 1, 1)):
        asked[name] = {}
        for index in range(80)[::order]:
            data = Boxes(truths)
            torch.manual_seed(index)  # whatever was drawn before
            recipes(data)[epoch, index]
            asked[name][index] = data.asked
    assert asked["early"] == asked["again"]
    assert asked["late"] == {index: [index] for index in range(80)}
    assert {len(four) for four in asked["early"].values()} == {1, 4}
    assert all(four[0] == index for index, four in asked["early"].items())
    assert 4 <= sum(len(four) == 4 for four in asked["early"].values()) <= 20
