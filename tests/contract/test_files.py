"""Whole files or none."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgedet.contract.errors import OutputError
from edgedet.contract.files import atomic_path, output_error, write_atomic


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.onnx"
    write_atomic(path, b"before")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".onnx"
            temporary.write_bytes(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_a_whole_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "eins")
    write_atomic(path, "zwei")
    assert path.read_text() == "zwei"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_atomic(tmp_path / "file" / "model.onnx", b"")


def test_a_full_disk_is_a_named_error(tmp_path: Path) -> None:
    error = output_error(tmp_path / "x", OSError(errno.ENOSPC, "No space left on device"))
    assert "The disk is full" in error.message
