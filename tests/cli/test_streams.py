"""Verbs whose stdout is closed, full or ASCII, and names that are not UTF-8: the work is done, or named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedet.cli.main import READER_GONE, VERBS, command_of

SCRIPTS = Path(sysconfig.get_path("scripts"))


def in_shell(command: str, *args: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`command` in bash; "$@" are the arguments, the first of them a script's name."""
    env = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | {"COLUMNS": "250"} | environment
    script, *rest = args
    words = [os.fsencode(x) for x in (SCRIPTS / script, *rest)]
    call = ["bash", "-c", command, "bash", *words]
    return subprocess.run(call, capture_output=True, timeout=300, env=env)


@pytest.fixture
def jobs(
    tiny_model: Callable[..., Path], clip: Path, tmp_path: Path
) -> dict[str, tuple[list[Any], Path | None]]:
    """Arguments of verbs, and the file that shows that the work was done."""
    lines, report = tmp_path / "out.jsonl", tmp_path / "bench.json"
    run = ["edgedet-run", tiny_model(), "--source", clip, "--json-lines", lines]
    bench = ["--source", clip, "--frames", "10", "--rounds", "1", "--save-json", report]
    return {
        "run": (run, lines),
        "run --json": (
            ["edgedet-run", tiny_model(), "--source", clip, "--json-lines", lines, "--json"],
            lines,
        ),
        "bench": (["edgedet-bench", tiny_model(), *bench], report),
        "info": (["edgedet", "info", tiny_model()], None),
        "doctor": (["edgedet", "doctor"], None),
        "overview": (["edgedet"], None),
    }


JOBS = ["run", "run --json", "bench", "info", "doctor", "overview"]


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("job", JOBS)
def test_closed_streams_are_as_dev_null(jobs: Any, job: str, streams: str) -> None:
    args, product = jobs[job]
    done = in_shell(f'"$@" {streams}', *args)
    assert (done.returncode, done.stderr) == (0, b"") or "2>" not in streams, done.stderr
    assert done.returncode == 0, done.stderr
    assert product is None or product.stat().st_size > 0
    assert b"edgedet" not in b"".join(p.read_bytes()[:7] for p in [product] if p)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_behind_stdout_is_named(jobs: Any, job: str) -> None:
    args, product = jobs[job]
    done = in_shell('"$@" >/dev/full', *args)
    assert done.returncode == 1
    assert b"error [OutputError]: Cannot write to stdout: No space left on device." in done.stderr
    assert product is None or product.stat().st_size > 0


@pytest.mark.parametrize("job", JOBS)
def test_a_reader_that_went_away(jobs: Any, job: str) -> None:
    args, _ = jobs[job]
    done = in_shell('"$@" | head -c 0; exit ${PIPESTATUS[0]}', *args)
    assert done.returncode in (READER_GONE, 0), done.stderr
    assert b"error" not in done.stderr


@pytest.mark.parametrize("job", JOBS)
def test_an_ascii_stdout_gets_ascii(jobs: Any, job: str) -> None:
    args, _ = jobs[job]
    done = in_shell('"$@"', *args, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_ascii_where_names_are_not(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "Hündchen·Δ.onnx"
    path.write_bytes(tiny_model().read_bytes())
    done = in_shell('"$@"', "edgedet", "info", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"H\xfcndchen\xb7\u0394.onnx" in done.stdout


def test_names_that_are_not_utf8(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.onnx")
    try:
        path.write_bytes(tiny_model().read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = in_shell('"$@"', "edgedet", "info", path)
    assert done.returncode == 0, done.stderr
    assert rb"m\xff.onnx" in done.stdout
    done = in_shell('"$@"', "edgedet", "info", path, "--json")
    assert os.fsencode(json.loads(done.stdout)["file"]) == os.fsencode(path)
    for verb in ("info", "run", "bench", "eval", "export", "train"):
        option = {"export": "--weights", "train": "--data", "info": "--json"}.get(verb, "--engine")
        done = in_shell('"$@"', "edgedet", verb, option, tmp_path / os.fsdecode(b"none\xff"))
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(b"error [")
        assert b"unexpected" not in done.stderr


def test_an_error_steers_no_terminal(cli: Any) -> None:
    done = cli("edgedet", "info", "a\x1b]0;title\x07\x1b[2J\u202e.onnx")
    assert done.stderr == (
        "error [DataError]: There is no file a\\x1b]0;title\\x07\\x1b[2J\\u202e.onnx. Check the path.\n"
    )
    debug = cli("edgedet", "info", "a\x1b[2J.onnx", "--debug")
    assert "Traceback" in debug.stderr
    assert "\x1b" not in debug.stderr


def single_valued() -> list[tuple[str, str]]:
    """Every option of every verb that takes one value."""
    return [
        (verb, p.opts[-1])
        for verb in VERBS
        for p in command_of(verb).params
        if p.opts[0].startswith("-") and not p.multiple and not p.is_flag and p.name != "help"
    ]


@pytest.mark.parametrize(("verb", "option"), single_valued())
def test_an_option_given_twice_is_refused(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    from edgedet.cli.main import run_verb

    assert run_verb(verb, [option, "1", f"{option}=2" if option.startswith("--") else f"{option}2"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error [UsageError]: {option}") or "is given twice: '1' and '2'" in line
    assert "is given twice: '1' and '2'" in line


def test_a_list_may_be_repeated_and_a_flag_said_again(cli: Any, tmp_path: Path) -> None:
    done = cli("edgedet-eval", "x.onnx", "--data", f"masks:{tmp_path}", "--trimap", "3", "--trimap", "5")
    assert "twice" not in done.stderr and "opposite" not in done.stderr
    assert json.loads(cli("edgedet", "doctor", "--json", "--json").stdout)
    done = cli("edgedet-train", "--model", "unet", "--data", "masks:x", "--upright", "--no-upright")
    assert done.returncode == 2
    assert "its opposite are both given" in done.stderr
