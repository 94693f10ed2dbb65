"""What the values of a mask mean: class names, and the value of each.

A classes.txt says it, a line each:

    sky                 the next value, from 0 on
    building
    11: void            this value; void is nobody's pixel: neither trained on nor measured
    20-25: building     these values too

255 is void unless a line says otherwise. The data sets that edgedet knows are described in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import AnnotationError, DataError
from edgedet.contract.spec import VOID

VOID_NAME = "void"

_UNKNOWN = -1
_LINE = re.compile(r"(?:(\d+)\s*(?:-\s*(\d+)\s*)?:\s*)?(\S.*)")


@dataclass(frozen=True, eq=False)
class Labels:
    """classes: their names; table (256,) int16: the class of each value a mask may hold, `VOID`, or -1."""

    classes: tuple[str, ...]
    table: npt.NDArray[np.int16]

    def values(self) -> str:
        """What a mask may hold, for messages: "0-10, void 11, 255"."""
        known = np.flatnonzero((self.table >= 0) & (self.table != VOID))
        void = np.flatnonzero(self.table == VOID)
        return ", ".join([_ranges(known), *([f"void {_ranges(void)}"] if len(void) else [])])

    def only(self, classes: Sequence[str], where: Path) -> Labels:
        """The same values with these classes, in this order; the classes left out are void.

        Raises:
            DataError: it has none of them; `where` is the data set, for the message.
        """
        if not set(classes) & set(self.classes):
            raise DataError(
                f"{where} has none of the classes {', '.join(classes)}.",
                hint=f"Its classes are {', '.join(self.classes)}; its classes.txt may name others.",
            )
        new = [classes.index(name) if name in classes else VOID for name in self.classes]
        lookup = np.asarray([*new, *[VOID] * (VOID + 1 - len(new)), _UNKNOWN], np.int16)  # -1: the last
        return Labels(tuple(classes), lookup[self.table])


def labels_of(text: str, file: Path) -> Labels:
    """The meaning of a classes.txt (above); `file` is where it stands, for errors.

    Raises:
        AnnotationError: a value above 255, a value or name given twice, or no class.
    """
    names: list[str] = []
    table = np.full(VOID + 1, _UNKNOWN, np.int16)
    following = 0
    for line, row in enumerate(text.split("\n"), 1):
        found = _LINE.fullmatch(row.strip())
        if found is None:
            continue
        low, high, name = found.groups()
        if max(len(low or ""), len(high or "")) > 9:
            raise AnnotationError(file, line, "names a value of more than nine digits, expected 0 to 255")
        first = following if low is None else int(low)
        last = first if high is None else int(high)
        if not first <= last <= 255:
            raise AnnotationError(file, line, f"{row.strip()!r} is for {first} to {last} of 0 to 255")
        if (table[first : last + 1] != _UNKNOWN).any():
            raise AnnotationError(file, line, f"{row.strip()!r} gives a value a second meaning")
        if name in names and low is None:
            raise AnnotationError(file, line, f"{name!r} is named twice")
        if name.lower() == VOID_NAME:
            table[first : last + 1] = VOID
        else:
            if name not in names:
                names.append(name)
            table[first : last + 1] = names.index(name)
        following = last + 1
    if not names:
        raise AnnotationError(file, 0, "names no class", hint="Write one class name per line.")
    if len(names) > VOID:
        raise AnnotationError(file, 0, f"names {len(names)} classes; a map of bytes has room for {VOID}")
    if table[VOID] == _UNKNOWN:
        table[VOID] = VOID
    return Labels(tuple(names), table)


def _ranges(values: npt.NDArray[np.int64]) -> str:
    """[0, 1, 2, 7] -> "0-2, 7"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
