"""Text from files, made fit to print; JSON from files, read strictly."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from typing import Any

_JOINERS = "\u200c\u200d"  # of Persian, Indic scripts and emoji: they shape letters and move nothing


def printable(text: object) -> str:
    r"""`str(text)` with everything that could steer a terminal shown as an escape.

    Control characters (ESC, carriage return, tab, newline, C1), marks of writing direction and other
    invisible formatting, and separators of lines become \n, \x1b or \u202e. A byte of a file name that is
    not UTF-8 is shown as that byte, \xff. All else stays as it is.
    """
    text = str(text)
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # what os.fsdecode makes of a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if not hidden or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def is_utf8(text: object) -> bool:
    """Whether `str(text)` is UTF-8, which a file's name need not be: OpenCV crashes on others."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(data: bytes | str) -> Any:
    """JSON from a file. ValueError says why it is none, whatever it holds.

    Bytes are UTF-8. A name given twice in an object, NaN, infinities and numbers beyond float64 are
    refused: another reader would see another file. So is nesting deeper than Python's own limit.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=distinct, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`: an object of JSON. ValueError if it has a name twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {twice!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value
