"""What every label format shares: boxes are checked one by one, and what is wrong is named, not kept."""

from __future__ import annotations

import math
import reprlib
from pathlib import Path

import numpy as np

from edgedet.contract.errors import ImageError
from edgedet.contract.image_files import MAX_PIXELS, image_size
from edgedet.data.sample import ClassMapSource, MaskSource, Problems, Truth

ZERO_AREA = "zero area"
OUT_OF_BOUNDS = "out of bounds"
CLIPPED = "clipped to the image"
UNKNOWN_CLASS = "unknown class"
UNKNOWN_IMAGE = "unknown image id"
UNUSUAL = "unusual value"
MALFORMED = "malformed field"
UNREADABLE = "unreadable annotation"
MISSING_IMAGE = "missing image"
BROKEN_IMAGE = "broken image"
NO_LABELS = "no label file"
DUPLICATE = "duplicate entry"
NO_MASK = "missing mask"
BROKEN_MASK = "unreadable mask"
COLOUR_MASK = "mask of colours"
MASK_SIZE = "mask of another size"
UNKNOWN_LABEL = "label outside the classes"
ALL_VOID = "all void"

CORRECTED = frozenset({CLIPPED, UNUSUAL})
"""Problems after which nothing is left out."""

LOST_OBJECTS = frozenset({ZERO_AREA, OUT_OF_BOUNDS, UNKNOWN_CLASS, UNKNOWN_IMAGE, MALFORMED})
"""Problems by which an object is left out."""

LOST_IMAGES = frozenset({UNREADABLE, MISSING_IMAGE, BROKEN_IMAGE, NO_MASK})
"""Problems by which an image is left out."""

MAX_SIDE = 1 << 20
"""The longest side of an image that OpenCV reads: what a label says beyond that is a slip."""

ROUNDING = 0.5
"""Pixels by which a box may leave its image without a report: labels are rounded."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class BoxList:
    """Collects one image's boxes, clipped to the image; problems name the label file and line."""

    def __init__(
        self, image: Path, labels_file: Path, size: tuple[int, int] | None, problems: Problems
    ) -> None:
        self.image = image
        self.file = labels_file
        self.size = size
        self.problems = problems
        self.boxes: list[tuple[float, float, float, float]] = []
        self.labels: list[int] = []
        self.ignore: list[bool] = []

    def add(
        self, box: tuple[float, float, float, float], label: int, *, ignore: bool, line: int, note: str
    ) -> bool:
        """Keep a box xyxy in pixels, or note why not. `note` names it in reports. True if it was kept."""
        if not all(abs(v) <= MAX_SIDE for v in box):  # NaN neither
            self.note(MALFORMED, f"{note} is no place in an image", line=line)
            return False
        if box[2] <= box[0] or box[3] <= box[1]:
            self.note(ZERO_AREA, f"{note} was dropped", line=line)
            return False
        kept = box
        if self.size is not None:
            height, width = self.size
            x0, y0, x1, y1 = box
            kept = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            if max(abs(a - b) for a, b in zip(box, kept, strict=True)) > ROUNDING:
                empty = kept[2] <= kept[0] or kept[3] <= kept[1]
                kind, what = (OUT_OF_BOUNDS, "was dropped") if empty else (CLIPPED, "was clipped")
                self.note(kind, f"{note} {what}: the image is {width}x{height}", line=line)
            if kept[2] <= kept[0] or kept[3] <= kept[1]:
                return False
        self.boxes.append(kept)
        self.labels.append(label)
        self.ignore.append(ignore)
        return True

    def note(self, kind: str, detail: str, *, line: int = 0) -> None:
        """Note what is wrong with the image's labels."""
        self.problems.add(self.file, kind, detail, line=line, image=self.image)

    def truth(self, *, masks: MaskSource | None = None, class_map: ClassMapSource | None = None) -> Truth:
        """What was collected."""
        return Truth(
            path=self.image,
            boxes=np.asarray(self.boxes, np.float32).reshape(-1, 4),
            labels=np.asarray(self.labels, np.int64),
            ignore=np.asarray(self.ignore, bool),
            size=self.size,
            masks=masks,
            class_map=class_map,
        )


def number(text: str | None) -> float | None:
    """A finite number, or None. "1_0", which is a number in Python's source, is none."""
    try:
        value = float("" if text is None or "_" in text else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_name(text: str) -> bool:
    """Whether a text can be a class or file name: not empty, no null byte, no half of a character."""
    return bool(text.strip()) and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def plain_name(name: str) -> str:
    """What is left of a class name without case, spaces, "_" and "-"; it may be nothing."""
    return "".join(c for c in name.casefold() if c not in " _-")


def real(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def short(value: object) -> str:
    """A value of a file for a message: its repr, cut where it is long or nested."""
    return _SHORT.repr(value)


def extent(height: float | None, width: float | None) -> tuple[int, int] | None:
    """(height, width) as labels give it, or None where no image can have it (some tools write 0)."""
    if height is None or width is None or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        return None
    return (int(height), int(width)) if height * width <= MAX_PIXELS else None


def measured(image: Path) -> tuple[int, int] | None:
    """(height, width) of an image whose labels say no size, so that its boxes are checked; None if broken."""
    try:
        return image_size(image)
    except ImageError:
        return None
