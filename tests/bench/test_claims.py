"""The lecture's speed claims, pinned to what the lecture and the papers say."""

from __future__ import annotations

import pytest

from edgedet.bench.claims import CLAIMS, LECTURE_CLAIMS, PAPER_CLAIMS, SPEEDUPS, Claim


def claim(system: str, origin: str) -> Claim:
    (found,) = [c for c in CLAIMS if c.system == system and c.origin == origin]
    return found


def test_the_lecture_gives_two_times_and_two_ratios_and_nothing_else() -> None:
    assert [c.system for c in LECTURE_CLAIMS] == ["R-CNN", "Faster R-CNN (VGG16)"]
    assert {c.origin for c in LECTURE_CLAIMS} == {"lecture"}
    assert {c.origin for c in PAPER_CLAIMS} == {"paper"}
    assert [(s.system, s.factor, s.of) for s in SPEEDUPS] == [
        ("Fast R-CNN", 213, "test"),
        ("Fast R-CNN", 9, "training"),
    ]


def test_rcnn_as_the_lecture_says_it() -> None:
    c = claim("R-CNN", "lecture")
    assert c.seconds == (15.0, 15.0)
    assert c.hardware == "Tesla K40"
    assert c.fps == pytest.approx((0.067, 0.067), abs=5e-4)
    assert "2000 proposals" in c.covers
    assert c.note == "the paper gives 13 s (GPU) without VGG16, 47 s with VGG16"


def test_213_times_holds_between_47_s_and_022_s_and_never_for_15_s() -> None:
    fast, slow = claim("Fast R-CNN (VGG16, truncated SVD)", "paper"), claim("R-CNN (VGG16)", "paper")
    assert slow.seconds == (47.0, 47.0)
    assert fast.seconds == (0.22, 0.22)
    assert fast.fps == pytest.approx((4.5, 4.5), abs=0.05)
    assert slow.seconds[0] / fast.seconds[0] == pytest.approx(213, abs=1)
    assert "NOT included" in fast.covers
    (test_time,) = [s for s in SPEEDUPS if s.of == "test"]
    assert "0.22 s against 47 s" in test_time.holds_for
    assert "NOT included" in test_time.holds_for
    # what 15 s / 213 would claim is claimed nowhere
    assert not [c for c in CLAIMS if abs(c.seconds[0] - 15 / 213) < 0.01]


def test_faster_rcnn_counts_all_steps() -> None:
    c = claim("Faster R-CNN (VGG16)", "lecture")
    assert c.fps == pytest.approx((5, 5))
    assert "all steps" in c.covers
    assert "198 ms" in c.covers


@pytest.mark.parametrize(
    ("system", "fps", "hardware", "batch", "note"),
    [
        ("YOLO v1", 45, "Titan X", 1, "VOC 2007 mAP 63.4"),
        ("Fast YOLO", 155, "Titan X", 1, "VOC 2007 mAP 52.7"),
        ("SSD300 (VGG16)", 59, "Titan X", 8, "VOC 2007 mAP 74.3"),
        ("SSD512 (VGG16)", 22, "Titan X", 8, "VOC 2007 mAP 76.8"),
        ("Mask R-CNN (ResNet-101-FPN)", 1 / 0.210, "Tesla M40", 1, ""),
        ("Faster R-CNN with FPN (ResNet-50)", 1 / 0.148, "Tesla M40", 1, ""),
    ],
)
def test_figures_of_the_papers(system: str, fps: float, hardware: str, batch: int, note: str) -> None:
    c = claim(system, "paper")
    assert c.fps == pytest.approx((fps, fps))
    assert (c.hardware, c.batch, c.note) == (hardware, batch, note)


def test_ranges_and_bounds() -> None:
    fcn, unet = claim("FCN", "paper"), claim("U-Net", "paper")
    assert fcn.seconds == (0.1, 0.33)
    assert fcn.fps == pytest.approx((3.03, 10), abs=0.01)
    assert unet.bound
    assert unet.fps == (1.0, 1.0)
    assert "512 x 512" in unet.covers


def test_every_claim_states_its_conditions() -> None:
    for c in CLAIMS:
        assert c.hardware, c.system
        assert c.covers, c.system
        assert c.source, c.system
        assert 0 < c.seconds[0] <= c.seconds[1], c.system
