from __future__ import annotations

import os
import shutil
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
        staging.publish("c.onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.onnx", "c.onnx"]
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


HOLD = """
import sys
from pathlib import Path
from edgedet.export.staging import Staging
with Staging(Path(sys.argv[1])) as staging:
    staging.write("yolo.onnx", sys.argv[2])
    print(staging.folder, flush=True)
    sys.stdin.readline()
    print(staging.publish("yolo.onnx").read_text(), flush=True)
"""


def hold(output: Path, text: str, *before: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that is in the middle of an export into `output`, and its hidden folder."""
    command = [*before, sys.executable, "-c", HOLD, str(output), text]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_leftovers_of_the_dead_are_removed_those_of_the_living_not(tmp_path):
    killed, left = hold(tmp_path, "half")
    living, used = hold(tmp_path, "whole")
    killed.kill()
    killed.communicate()
    assert left.is_dir()
    with Staging(tmp_path):
        assert not left.exists()
        assert (used / "yolo.onnx").exists()
    assert living.communicate("go on\n")[0] == "whole\n"
    assert [p.name for p in tmp_path.iterdir()] == ["yolo.onnx"]


def test_a_folder_that_was_not_yet_locked_is_left_over(tmp_path):
    (tmp_path / ".edgedet-x.partial").mkdir()
    (tmp_path / "kept.partial").mkdir()
    (tmp_path / ".edgedet-link.partial").symlink_to(tmp_path / "kept.partial")
    with Staging(tmp_path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".edgedet-link.partial", "kept.partial"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces of processes")
def test_two_containers_in_one_folder(tmp_path):
    """Each is process 1 of its own namespace, and sees no other process."""
    apart = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    first, one = hold(tmp_path, "first", *apart)
    second, two = hold(tmp_path, "second", *apart)
    assert one.is_dir()
    assert one != two
    assert second.communicate("go on\n")[0] == "second\n"
    assert (one / "yolo.onnx").read_text() == "first"
    assert first.communicate("go on\n")[0] == "first\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["yolo.onnx"]


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
