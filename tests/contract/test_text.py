"""Text from outside, for a terminal and a picture."""

from __future__ import annotations

import os

from edgedet.contract.text import printable


def test_what_can_be_printed_stays() -> None:
    for text in ("", "traffic light", "Straße", "行人", "человек", "a_b-c"):
        assert printable(text) is text


def test_controls_and_half_surrogates_become_escapes() -> None:
    assert printable("a\x1b[31mb") == "a\\x1b[31mb"
    assert printable("two\nlines\t\x00\x9b") == "two\\nlines\\t\\x00\\x9b"
    assert printable("right\u202eleft") == "right\\u202eleft"
    odd = printable(os.fsdecode(b"caf\xe9"))
    assert odd == "caf\\udce9"
    assert odd.encode("utf-8")
