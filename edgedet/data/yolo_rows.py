"""The rows of YOLO's label files, each a class and numbers that are fractions of the image.

    class cx cy w h                     a box
    class x y x y x y ...               three or more points, a polygon: counts as the box around it
    class cx cy w h, then key points    2 or 3 numbers each: read only where data.yaml says `kpt_shape`

A row of key points of 2 numbers has as many numbers as some polygon. Polygons differ in length and may stand
among boxes, rows of key points do neither; so where all rows of a data set have one length, nothing tells
them apart, and they are refused unless data.yaml says `kpt_shape: [count, 2 or 3]`, or `task: segment` (or
obb: four corners).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedet.contract.errors import AnnotationError
from edgedet.data import clean
from edgedet.data.clean import BoxList, number
from edgedet.data.text import lines
from edgedet.data.yolo_yaml import Described


class Rows:
    """Reads the rows of all label files of a data set, and finds out what they are."""

    def __init__(self, names: Sequence[str], labels: Sequence[int | None], described: Described) -> None:
        """names: what the rows' numbers mean; labels: the label of each name, None if it is not wanted."""
        self.names, self.labels = names, labels
        self.task = described.task
        self.pose = (
            None if described.key_points is None else 5 + described.key_points[0] * described.key_points[1]
        )
        self._long: dict[int, tuple[Path, int]] = {}  # how many numbers -> where first seen
        self._boxes = False

    def read(self, file: Path, boxes: BoxList) -> None:
        """Put a label file's objects into `boxes`, what is wrong with its rows into its problems.

        Raises:
            AnnotationError: the file cannot be read.
        """
        assert boxes.size is not None
        seen: set[str] = set()
        for line, row in enumerate(lines(file), 1):
            if not row:
                continue
            if row in seen:
                boxes.note(clean.DUPLICATE, f"{clean.short(row)} was dropped", line=line)
                continue
            seen.add(row)
            values = [number(w) for w in row.split()]
            known = [v for v in values if v is not None]
            wrong = "" if len(known) == len(values) else "not all are numbers"
            if wrong or (wrong := self._wrong_length(len(known))):
                detail = f"{clean.short(row)}: {wrong}, expected: class cx cy w h"
                boxes.note(clean.MALFORMED, detail, line=line)
                continue
            label, *rest = known
            if len(known) == 5:
                self._boxes = True
            elif self.pose is None:
                self._long.setdefault(len(known), (file, line))
            if label != int(label) or not 0 <= label < len(self.names):
                detail = f"class {label:g} of 0 to {len(self.names) - 1} was dropped"
                boxes.note(clean.UNKNOWN_CLASS, detail, line=line)
                continue
            wanted = self.labels[int(label)]
            if wanted is None:
                detail = f"{clean.short(self.names[int(label)])} was dropped"
                boxes.note(clean.UNKNOWN_CLASS, detail, line=line)
                continue
            points = rest if self.pose is None else rest[:4]
            boxes.add(_corners(points, boxes.size), wanted, ignore=False, line=line, note=row[:60])

    def expect_known_kind(self) -> None:
        """After all files: AnnotationError where polygons and key points cannot be told apart."""
        if not self._long or self.task in ("segment", "obb"):
            return
        if self.task != "pose" and (self._boxes or len(self._long) > 1):
            return
        count, (file, line) = next(iter(self._long.items()))
        raise AnnotationError(
            file,
            line,
            f"its rows have {count} numbers: they may be polygons of {count // 2} points, or boxes with key "
            "points",
            hint="Say which in data.yaml: `task: segment` (or obb), or `kpt_shape: [key points, 2 or 3]`.",
        )

    def _wrong_length(self, count: int) -> str:
        """What is wrong with a row of so many numbers, empty if nothing."""
        if count == 5 or count == self.pose:
            return ""
        if self.pose is not None:
            return f"{count} numbers, where kpt_shape means {self.pose}"
        if count >= 7 and count % 2:
            return ""
        return f"{count} numbers" + (" (for key points give kpt_shape in data.yaml)" if count > 6 else "")


def _corners(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A row's numbers after the class, as fractions -> corners in pixels."""
    height, width = size
    if len(values) == 4:
        cx, cy, w, h = values
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        x0, y0, x1, y1 = min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
    return x0 * width, y0 * height, x1 * width, y1 * height
