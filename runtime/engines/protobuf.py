"""The bytes of a protobuf message, field by field, read without its library.

A message is a sequence of fields, each a key (number << 3 | wire type) and a value. The readers seek over
what they do not need, so a file of any size costs a few reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

MAX_TEXT = 1 << 24
"""Bytes of a name or a text: far more than any spec has."""

MAX_FIELDS = 1 << 20
"""Fields of one message that are read: a graph of a hundred thousand nodes has fewer."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class MalformedError(Exception):
    """The bytes are not a protobuf message, or end too early."""


def fields(f: BinaryIO, end: int) -> Iterator[tuple[int, int, int | None]]:
    """The fields of the message between here and `end`: (number, value of a varint, end of the bytes).

    The end is None for numbers; for bytes the consumer may read up to it, the rest is skipped.
    """
    count = 0
    while (here := f.tell()) < end:
        count += 1
        if count > MAX_FIELDS:
            raise MalformedError(here)
        key = _varint(f)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise MalformedError(here)
        if wire == _VARINT:
            yield number, _varint(f), None
        elif wire == _BYTES:
            stop = _varint(f)
            stop += f.tell()
            if stop > end:
                raise MalformedError(here)
            yield number, 0, stop
            f.seek(stop)
        elif wire in (_FIXED64, _FIXED32):
            f.seek(8 if wire == _FIXED64 else 4, os.SEEK_CUR)
            yield number, 0, None
        else:
            raise MalformedError(here)
    if f.tell() != end:
        raise MalformedError(end)


def varints(f: BinaryIO, end: int) -> list[int]:
    """The packed varints from here to `end`. Raises MalformedError."""
    found = []
    while f.tell() < end:
        found.append(_varint(f))
        if len(found) > MAX_FIELDS:
            raise MalformedError(end)
    return found


def _varint(f: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = f.read(1)
        if not byte or shift > 63:
            raise MalformedError(f.tell())
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def text(f: BinaryIO, end: int) -> str:
    """The text from here to `end`. Raises MalformedError, UnicodeDecodeError."""
    length = end - f.tell()
    if length > MAX_TEXT:
        raise MalformedError(end)
    return f.read(length).decode()
