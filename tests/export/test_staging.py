from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedet.contract.errors import OutputError
from edgedet.export.staging import Staging


def test_only_published_files_stay(tmp_path):
    with Staging(tmp_path / "out") as staging:
        staging.write("a.onnx", b"whole")
        staging.write("b.onnx", "never published")
        assert list((tmp_path / "out").glob("*.onnx")) == []
        assert staging.publish("a.onnx") == tmp_path / "out" / "a.onnx"
        staging.write("c.onnx", b"c")
        staging.publish("c.onnx", under="c-failed.onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.onnx", "c-failed.onnx"]
    assert (tmp_path / "out" / "a.onnx").read_bytes() == b"whole"


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"old")

    def fail() -> None:
        with Staging(tmp_path) as staging:
            staging.write("a.onnx", b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"old"


def test_leftovers_of_the_dead_are_removed_those_of_the_living_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, living = (tmp_path / f".edgedet-export.{pid}.partial" for pid in (dead.pid, os.getppid()))
    for folder in (left, living):
        folder.mkdir()
        (folder / "yolo.onnx").write_bytes(b"half")
    with Staging(tmp_path):
        assert not left.exists()
        assert (living / "yolo.onnx").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"), Staging(tmp_path / "file" / "out"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody may write to")
def test_where_nobody_may_write():
    with pytest.raises(OutputError, match="Cannot write /proc/edgedet"), Staging(Path("/proc/edgedet")):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"), Staging(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o700)
