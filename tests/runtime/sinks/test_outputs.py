"""Where outputs go: never onto an input, another output, or an earlier run's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedet.contract.errors import OutputError, UsageError
from edgedet.runtime.sinks.outputs import OutputFile, check_outputs, is_stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"a clip")
    return path


def test_no_output_is_an_input_by_whatever_path(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hard.mp4").hardlink_to(source)
    (tmp_path / "soft.mp4").symlink_to(source)
    (tmp_path / "folder").symlink_to(source.parent)
    monkeypatch.chdir(source.parent)
    ways = ["hard.mp4", "soft.mp4", "folder/clip.mp4", "in/../in/clip.mp4"]
    for path in [*(str(tmp_path / way) for way in ways), "clip.mp4", "./clip.mp4", "../folder/clip.mp4"]:
        for given in (path, Path(path)):
            with pytest.raises(UsageError, match="also an input: --source"):
                check_outputs({"--save": given}, {"--source": [tmp_path / "other.mp4", source]})
    assert source.read_bytes() == b"a clip"
    check_outputs({"--save": tmp_path / "new.mp4"}, {"--source": [source, "0", "rtsp://camera/"]})


def test_no_output_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "dangling").symlink_to("a/new/out.mp4")
    for first, second in (
        ("out", "out"),
        ("a/out", "b/out"),
        ("a/new/out.mp4", "dangling"),
        ("Out", "out"),  # which a file system without case makes one
        ("a/../out", "out"),
    ):
        with pytest.raises(UsageError, match="also another output: --save"):
            check_outputs({"--save": tmp_path / first, "--json-lines": tmp_path / second}, {})
    check_outputs({"--save": tmp_path / "a" / "out", "--json-lines": tmp_path / "out"}, {})
    check_outputs({"--save": "/dev/null", "--json-lines": "/dev/null"}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "dangling"]


def test_standard_output_is_known_by_its_other_names(tmp_path: Path) -> None:
    code = "import sys; from edgedet.runtime.sinks.outputs import is_stdout; print(is_stdout(sys.argv[1]))"
    out = tmp_path / "out"
    for name, same in (
        ("/dev/stdout", True),
        ("/proc/self/fd/1", True),
        (out, True),
        (tmp_path / "x", False),
    ):
        with out.open("w") as f:
            subprocess.run([sys.executable, "-c", code, str(name)], stdout=f, check=True)
        assert out.read_text().strip() == str(same)
    assert is_stdout("-")


def write(file: OutputFile, data: bytes, *, whole: bool = True) -> Path:
    file.begin()
    file.write(data)
    file.close(whole=whole)
    return file.path


def test_an_output_grows_under_its_own_name(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "new" / "out", live=False)
    assert list((tmp_path / "new").iterdir()) == []
    file.begin()
    file.write(b"one")
    assert (tmp_path / "new" / "out").read_bytes() == b"one"
    file.close(whole=False)
    assert (tmp_path / "new" / "out").read_bytes() == b"one"


def test_what_stood_there_stays_until_a_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.x"
    path.write_bytes(b"old")
    assert write(OutputFile(path, live=False), b"half", whole=False) == tmp_path / "out-2.x"
    assert write(OutputFile(path, live=False), b"half", whole=False) == tmp_path / "out-3.x"
    assert path.read_bytes() == b"old"
    assert write(OutputFile(path, live=False), b"new") == path
    assert path.read_bytes() == b"new"
    assert write(OutputFile(path, live=True), b"live") == tmp_path / "out-4.x"
    assert path.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write(OutputFile(tmp_path / "link", live=False), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "out.x"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from edgedet.runtime.sinks.outputs import OutputFile\n"
        "f = OutputFile(sys.argv[1], live=False); f.begin(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert ".partial" in left.name
    living = OutputFile(path, live=False)
    assert not left.exists()
    living.begin()
    OutputFile(path, live=False)
    assert living.path.exists()
    living.close(whole=True)
    assert list(tmp_path.iterdir()) == [path]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    first, second = OutputFile(tmp_path / "out", live=False), OutputFile(tmp_path / "out", live=False)
    first.begin()
    with pytest.raises(OutputError, match="Another run is writing"):
        second.begin()
    first.close(whole=True)
    live = [OutputFile(tmp_path / "live", live=True) for _ in range(2)]
    for file in live:
        file.begin()
    assert [file.path.name for file in live] == ["live", "live-2"]
    for file in live:
        file.close(whole=True)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="directory"):
        OutputFile(tmp_path, live=False)


def test_odd_names_are_names(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9[1]*.x")
    path.write_bytes(b"old")
    for data in (b"new", b"newer"):
        write(OutputFile(path, live=False), data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]
