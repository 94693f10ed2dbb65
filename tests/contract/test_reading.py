"""Files are read whole, up to a limit, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgedet.contract.reading import is_file, read_bytes


def test_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    assert read_bytes(path, 1, count=2) == b"12"
    with pytest.raises(OSError, match="it has 5 bytes, more than the 4 that are read"):
        read_bytes(path, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(path, 100)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "gone", "half \ud800"])
def test_names_that_no_file_has(tmp_path, name):
    assert not is_file(tmp_path / name)
    with pytest.raises(OSError):  # noqa: PT011  # of several kinds, by the system
        read_bytes(tmp_path / name, 10)
