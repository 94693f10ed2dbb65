"""Lists of images by name: a line each, whole, because names hold spaces."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from edgedet.contract.image_files import ENDINGS
from edgedet.data import clean
from edgedet.data.sample import Problems
from edgedet.data.text import lines

# VOC's lists for one class: 1 it is there, -1 it is not, 0 it is difficult
_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def listed_names(file: Path, known: Collection[str], problems: Problems, *, flags: bool = False) -> list[str]:
    """The names in a list, each once, as they stand in `known` where they do.

    A line is a name, with or without folders and the ending of an image (or .xml).

    Args:
        file: the list.
        known: the names that there are, without endings.
        problems: where names that are listed twice are noted.
        flags: the list may have a second column of -1, 0 and 1. It has one where every line ends like
            that, unless all lines are names of `known` as they are.

    Raises:
        AnnotationError: the list cannot be read.
    """
    rows = [(line, row) for line, row in enumerate(lines(file), 1) if row]
    if flags and not all(_name(row, known) in known for _, row in rows):
        columns = [_FLAGGED.fullmatch(row) for _, row in rows]
        if all(columns):
            rows = [(line, m[1]) for (line, _), m in zip(rows, columns, strict=True) if m]
    names: dict[str, None] = {}
    for line, row in rows:
        name = _name(row, known)
        if name in names:
            problems.add(file, clean.DUPLICATE, f"{name} is listed twice", line=line)
        names[name] = None
    return list(names)


def _name(row: str, known: Collection[str]) -> str:
    """The entry of `known` that a line means: as it stands, without its ending, without its folders."""
    last = row.replace("\\", "/").rpartition("/")[2]
    for name in (row, _bare(row), last, _bare(last)):
        if name in known:
            return name
    return _bare(last)


def _bare(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in (*ENDINGS, ".xml") else name
