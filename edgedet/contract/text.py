"""Text from outside, made fit for a terminal and a picture."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with what cannot be printed as escapes: controls, line breaks, half surrogates.

    An escape sequence in a name would reach the terminal, and OpenCV's fonts crash on a half surrogate.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
