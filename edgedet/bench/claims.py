"""The lecture's speed claims, each with its conditions: what the FPS report is set against.

A figure without its hardware, its batch and what its clock covers means nothing, so a claim carries all
of them, and whether the lecture says it or a paper that the lecture presents. A figure measured on other
hardware is a ratio to a claim, not a refutation of it (`CAVEAT`).

The lecture's "Fast R-CNN tests 213x faster than R-CNN" is a ratio between two of the paper's own clocks
(47 s and 0.22 s, VGG16, proposals not counted). It is kept as `Speedup`, which names both clocks, and is
never applied to the lecture's 15 s, which is another network on another clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CAVEAT = (
    "A figure measured on this machine and a claim made on other hardware, with another clock, differ by a "
    "ratio; the ratio does not refute the claim."
)


@dataclass(frozen=True)
class Claim:
    """A published time per image.

    Attributes:
        system: the detector or segmenter, with its variant.
        seconds: (least, most) seconds per image; equal where one figure is given.
        hardware: as the source names it, or that it does not.
        batch: images per pass; None where the source does not say.
        covers: what the clock covers, and what it leaves out.
        source: where the figure is printed.
        origin: "lecture" if the lecture itself says it, "paper" if only a paper does.
        note: what must be read beside it: the accuracy, or how other sources differ. May be empty.
        bound: the claim is "less than so long", not a measurement.
        model: the system here that it may be set beside, by its name in the registry.
        without_proposals: the clock leaves out the proposals, which come from outside the network.
    """

    system: str
    seconds: tuple[float, float]
    hardware: str
    batch: int | None
    covers: str
    source: str
    origin: Literal["lecture", "paper"]
    note: str = ""
    bound: bool = False
    model: str = ""
    without_proposals: bool = False

    @property
    def fps(self) -> tuple[float, float]:
        """(least, most) images per second: the reciprocals of `seconds`."""
        least, most = self.seconds
        return (1 / most, 1 / least)


@dataclass(frozen=True)
class Speedup:
    """A published ratio of two times, with both clocks named: it holds between these two and no others.

    models: the two systems here that it may be set beside, the faster one first.
    """

    system: str
    baseline: str
    factor: float
    of: Literal["test", "training"]
    holds_for: str
    source: str
    models: tuple[str, str]


def _fps(value: float) -> tuple[float, float]:
    return (1 / value, 1 / value)


def _ms(value: float) -> tuple[float, float]:
    return (value / 1000, value / 1000)


LECTURE_CLAIMS = (
    Claim(
        "R-CNN",
        (15.0, 15.0),
        "Tesla K40",
        1,
        "one image with its about 2000 proposals; no more is said of the clock",
        "lecture 7, R-CNN",
        "lecture",
        "the paper gives 13 s (GPU) without VGG16, 47 s with VGG16",
        model="rcnn",
    ),
    Claim(
        "Faster R-CNN (VGG16)",
        (0.2, 0.2),
        "Tesla K40",
        1,
        "all steps: convolutions, proposals, detection (the paper's 198 ms)",
        "lecture 7, Faster R-CNN; Ren et al. 2016, table 5",
        "lecture",
        model="faster-rcnn",
    ),
)
"""What the lecture says of the time per image. Its claim on Fast R-CNN is a ratio: `SPEEDUPS`."""

PAPER_CLAIMS = (
    Claim(
        "R-CNN (small network)",
        (13.0, 13.0),
        "a GPU, not named",
        1,
        "proposals and features, on one image",
        "Girshick et al. 2014, 2.2",
        "paper",
        model="rcnn",
    ),
    Claim(
        "R-CNN (VGG16)",
        (47.0, 47.0),
        "Tesla K40",
        1,
        "one image, proposal time not included",
        "Girshick 2015, table 4",
        "paper",
        model="rcnn",
        without_proposals=True,
    ),
    Claim(
        "Fast R-CNN (VGG16, truncated SVD)",
        (0.22, 0.22),
        "Tesla K40",
        1,
        "one image, proposal time NOT included",
        "Girshick 2015, table 4",
        "paper",
        "what the lecture's 213x rests on: against 47 s, never against 15 s",
        model="fast-rcnn",
        without_proposals=True,
    ),
    Claim(
        "YOLO v1",
        _fps(45),
        "Titan X",
        1,
        "network and detections",
        "Redmon et al. 2015, table 1",
        "paper",
        "VOC 2007 mAP 63.4",
        model="yolo",
    ),
    Claim(
        "Fast YOLO",
        _fps(155),
        "Titan X",
        1,
        "network and detections",
        "Redmon et al. 2015, table 1",
        "paper",
        "VOC 2007 mAP 52.7",
        model="yolo",
    ),
    Claim(
        "SSD300 (VGG16)",
        _fps(59),
        "Titan X",
        8,
        "network and NMS",
        "Liu et al. 2016, table 7",
        "paper",
        "VOC 2007 mAP 74.3",
        model="ssd",
    ),
    Claim(
        "SSD512 (VGG16)",
        _fps(22),
        "Titan X",
        8,
        "network and NMS",
        "Liu et al. 2016, table 7",
        "paper",
        "VOC 2007 mAP 76.8",
        model="ssd",
    ),
    Claim(
        "Mask R-CNN (ResNet-101-FPN)",
        _ms(195 + 15),
        "Tesla M40",
        1,
        "195 ms on the GPU and 15 ms on the CPU to resize the masks",
        "He et al. 2017, 4.4",
        "paper",
        model="mask-rcnn",
    ),
    Claim(
        "Faster R-CNN with FPN (ResNet-50)",
        _ms(148),
        "Tesla M40",
        1,
        "all steps",
        "Lin et al. 2017, 5.2",
        "paper",
        model="faster-rcnn",
    ),
    Claim(
        "FCN",
        (0.1, 0.33),
        "hardware not stated",
        None,
        "clock not stated",
        "Long et al. 2015",
        "paper",
        model="fcn",
    ),
    Claim(
        "U-Net",
        (1.0, 1.0),
        '"a recent GPU"',
        1,
        "segmentation of a 512 x 512 image",
        "Ronneberger et al. 2015",
        "paper",
        bound=True,
        model="unet",
    ),
)
"""Figures of the papers that the lecture presents; the lecture does not give them."""

SPEEDUPS = (
    Speedup(
        "Fast R-CNN",
        "R-CNN",
        213,
        "test",
        "VGG16 with truncated SVD, 0.22 s against 47 s, proposal time NOT included",
        "lecture 7, Fast R-CNN; Girshick 2015, table 4",
        models=("fast-rcnn", "rcnn"),
    ),
    Speedup(
        "Fast R-CNN",
        "R-CNN",
        9,
        "training",
        "VGG16, proposal time not included",
        "lecture 7, Fast R-CNN; Girshick 2015, table 4",
        models=("fast-rcnn", "rcnn"),
    ),
)
"""What the lecture says as ratios; each holds between the two clocks it names."""

CLAIMS = LECTURE_CLAIMS + PAPER_CLAIMS
