"""Text that steers no terminal, JSON that means one thing."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedet.contract.text import parse_json, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hündchen, 日本語, 👩‍🚀, می‌خواهم", "Hündchen, 日本語, 👩‍🚀, می‌خواهم"),
        ("C:\\new", "C:\\new"),
        ("\x1b[31mred\x1b]8;;http://x\x07", r"\x1b[31mred\x1b]8;;http://x\x07"),
        ("a\rb\nc\td\x00\x7f", r"a\rb\nc\td\x00\x7f"),
        ("\x9b31m \x85", r"\x9b31m \x85"),
        ("\u202eexe\u2066 \u2028 \ufeff", r"\u202eexe\u2066 \u2028 \ufeff"),
        (os.fsdecode(b"\xff\xc3.jpg"), r"\xff\xc3.jpg"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=20))
def test_nothing_hidden_is_left(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c in "\u200c\u200d" or c.isspace() or ord(c) > 127 for c in shown)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff", "decode"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "too large"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 5000, "digits"),
    ],
)
def test_json_that_is_refused(data: bytes, why: str) -> None:
    if why == "digits" and sys.version_info < (3, 11):
        pytest.skip("this Python has no limit of digits")
    with pytest.raises(ValueError, match=why):
        parse_json(data)


def test_json_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, "ü", null, true]}'.encode()) == {"a": [1, 2.5, "ü", None, True]}
