"""The one decoder of all text files that belong to data sets, whatever editor wrote them."""

from __future__ import annotations

import codecs
from pathlib import Path

from edgedet.contract.errors import AnnotationError
from edgedet.contract.reading import read_bytes

MAX_TEXT = 64 << 20
"""Bytes that a list, a label file or a list of names may have."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, with whose mark it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_labels(file: Path, limit: int = MAX_TEXT) -> bytes:
    """The bytes of a file that belongs to a data set.

    Raises:
        AnnotationError: it is absent, no regular file, or has more than `limit` bytes.
    """
    try:
        return read_bytes(file, limit)
    except OSError as e:
        raise AnnotationError(file, 0, f"cannot be read: {e.strerror or e}") from None


def read_text(file: Path, limit: int = MAX_TEXT) -> str:
    r"""A text file: UTF-8, or UTF-16 or UTF-32 with a byte order mark; line ends become \n.

    Raises:
        AnnotationError: as for `read_labels`; or it is in another encoding, with the line.
    """
    return decoded(read_labels(file, limit), file)


def decoded(data: bytes, file: Path) -> str:
    """`read_text` of bytes at hand; `file` is where they are from, for errors."""
    mark, encoding = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1 if encoding == "utf-8" else 0
        raise AnnotationError(
            file,
            line,
            f"is not {encoding.upper()} text: {e.reason} at byte {e.start}",
            hint="Save it as UTF-8.",
        ) from None
    if "\0" in text:
        raise AnnotationError(
            file, 0, "holds null bytes: it is no text, or UTF-16 without its mark", hint="Save it as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines(file: Path, limit: int = MAX_TEXT) -> list[str]:
    """The lines of a text file without spaces around them; entry k is line k + 1. Raises as `read_text`.

    Only line ends end a line: `str.splitlines` would also split names at a dozen other characters.
    """
    return [row.strip() for row in read_text(file, limit).split("\n")]


def class_names(rows: list[str], file: Path) -> tuple[str, ...]:
    """Names, one a line, empty lines left out.

    Raises:
        AnnotationError: none, or a name that stands there twice.
    """
    names: dict[str, int] = {}
    for line, row in enumerate(rows, 1):
        if row and names.setdefault(row, line) != line:
            raise AnnotationError(file, line, f"names a class twice: {row!r} stands in line {names[row]} too")
    if not names:
        raise AnnotationError(file, 0, "names no class", hint="Write one class name per line.")
    return tuple(names)
