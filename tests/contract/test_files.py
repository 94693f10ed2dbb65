"""Whole files or none."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgedet.contract.errors import OutputError
from edgedet.contract.files import atomic_path, output_error, remove_leftovers, write_atomic


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


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_gets_the_mode_that_open_gives(tmp_path: Path, umask: int) -> None:
    """Also where the library that writes it makes it readable for its owner alone."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.bin") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        write_atomic(tmp_path / "b.txt", "text")
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = "import os, sys; from pathlib import Path; from edgedet.contract.files import atomic_path\n"
    killed += "with atomic_path(Path(sys.argv[1])) as t: t.write_text('half'); os._exit(0)"
    subprocess.run([sys.executable, "-c", killed, tmp_path / "a.json"], check=True)
    assert [p.name for p in tmp_path.iterdir()] != []
    with atomic_path(tmp_path / "b.json") as outer:  # in use, by this very process
        outer.write_text("b")
        write_atomic(tmp_path / "c.json", "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "c.json"]


def test_leftovers_deep_below_are_removed_but_nothing_that_lives(tmp_path: Path) -> None:
    killed = "import os, sys; from pathlib import Path; from edgedet.contract.files import atomic_path\n"
    killed += "with atomic_path(Path(sys.argv[1])) as t: t.write_text('half'); os._exit(0)"
    for place in ("b", "b/c"):
        subprocess.run([sys.executable, "-c", killed, tmp_path / place / "x.json"], check=True)
    write_atomic(tmp_path / "whole.json", "whole")
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent)
    with atomic_path(tmp_path / "a" / "living.json") as living:
        living.write_text("living")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.rglob("*.partial"))) == 3
        remove_leftovers(tmp_path, deep=True)
        assert list(tmp_path.rglob("*.partial")) == [living.parent]
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"living.json", "whole.json"}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    for text in ("eins", "zwei"):
        write_atomic(tmp_path / "link.txt", text)
        assert (tmp_path / "real" / "a.txt").read_text() == text
    assert (tmp_path / "link.txt").is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OutputError, match=f"Cannot write {tmp_path / name}"):
            write_atomic(tmp_path / name, "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


def test_text_of_names_that_are_no_utf8_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", os.fsdecode(b"\xff.jpg"))
    assert (tmp_path / "a.txt").read_text("utf-8") == "\\udcff.jpg"
