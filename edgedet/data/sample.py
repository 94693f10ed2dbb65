"""One sample type for every data set, and the report of what was wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class MaskSource(Protocol):
    """Where an image's instance masks come from; they are decoded only when asked for."""

    def read(self) -> npt.NDArray[np.bool_]:
        """(n, H, W) bool: one mask for each box of the `Truth`, in its order, at the image's size."""
        ...

    def identity(self) -> str:
        """What stands for them in the data set's fingerprint; the same on every machine."""
        ...


class ClassMapSource(Protocol):
    """Where an image's class per pixel comes from (palette PNG, index PNG, ...); decoded when asked for."""

    def read(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """(H, W) uint8: an index into the data set's classes, `VOID` where nothing is said.

        Args:
            size: (H, W) of the image it belongs to.

        Raises:
            MaskError: it cannot be read, is of another size, holds what is no class, or says nothing.
        """
        ...

    def identity(self) -> str:
        """What stands for it in the data set's fingerprint; the same on every machine."""
        ...


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one image before its pixels are read.

    boxes (n, 4) float32 xyxy in pixels of the image, x1 and y1 exclusive; labels (n,) int64 into the
    data set's class names; ignore (n,) bool: VOC's "difficult", COCO's crowds. size is (height, width)
    as the annotation says it, else as the image has it; None where boxes are not checked. `masks`
    says where the instance masks come from, `class_map` where the per-pixel classes come from; None where
    the data set has none.
    """

    path: Path
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.bool_]
    size: tuple[int, int] | None = None
    masks: MaskSource | None = None
    class_map: ClassMapSource | None = None

    @property
    def id(self) -> str:
        """The file name without its ending."""
        return self.path.stem


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its truth. image (H, W, 3) uint8 RGB; class_map (H, W) uint8, an index into the data
    set's classes or `VOID`, None where the data set has none; masks (n, H, W) bool, one for each box, and
    proposals (m, 4) float32 xyxy, where objects may be, best first, both None where they were not asked for;
    the rest as in `Truth`.
    """

    id: str
    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.bool_]
    class_map: npt.NDArray[np.uint8] | None = None
    masks: npt.NDArray[np.bool_] | None = None
    proposals: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set: where (file, line; 0 = the whole file) and what.

    image: the image of the data set that it concerns; None where that is none of those that are there.
    """

    path: Path
    line: int
    kind: str
    detail: str
    image: Path | None = None

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        text = f"{place}: {self.kind}: {self.detail}"
        # names come from files: what a terminal would obey, or could not show, is written as its number
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass
class Problems:
    """All problems of a data set, each named once; loading goes on without what they name.

    whole: the problems that these are some of; what is noted here is noted there too.
    """

    items: list[Problem] = field(default_factory=list)
    whole: Problems | None = field(default=None, repr=False)
    _seen: set[Problem] = field(default_factory=set, repr=False)

    def add(self, path: Path, kind: str, detail: str, *, line: int = 0, image: Path | None = None) -> None:
        """Note one problem. `kind` is one of a few short phrases, so that they can be counted."""
        self.take(Problem(path, line, kind, detail, image))

    def take(self, problem: Problem) -> None:
        """Note one problem, unless it is known."""
        if problem not in self._seen:
            self._seen.add(problem)
            self.items.append(problem)
            if self.whole is not None:
                self.whole.take(problem)

    def only(self, wanted: Callable[[Problem], bool]) -> Problems:
        """Some of the problems."""
        found = [p for p in self.items if wanted(p)]
        return Problems(found, self, set(found))

    def counts(self) -> dict[str, int]:
        """{kind: how often}, most frequent first."""
        return dict(Counter(p.kind for p in self.items).most_common())

    def summary(self) -> str:
        """The counts on one line, empty if nothing is wrong: "2 zero area, 1 missing image"."""
        return ", ".join(f"{n} {kind}" for kind, n in self.counts().items())

    def __len__(self) -> int:
        return len(self.items)
