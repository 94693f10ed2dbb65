"""The command line as a person meets it: help, exit codes, one line per failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import typer

from edgedet import __version__
from edgedet.cli.main import EXTRA_OF, INTERRUPTED, READER_GONE, VERBS, _guarded, command_of, overview
from edgedet.contract.errors import AccuracyGateFailed, EdgedetError, MissingDependency, WeightsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {verb: f"edgedet-{verb}" for verb in VERBS if verb not in ("info", "doctor")}


def one_line(text: str) -> str:
    """The text, which must be one line and no traceback."""
    (line,) = text.splitlines()
    assert "Traceback" not in line
    return line


def test_overview_names_every_verb(cli: Any) -> None:
    for args in ([], ["--help"], ["-h"]):
        done = cli("edgedet", *args)
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout == overview() + "\n"
        for verb, entry in VERBS.items():
            assert f"  {verb} " in done.stdout
            assert entry.summary in done.stdout


def test_version(cli: Any) -> None:
    assert cli("edgedet", "--version").stdout == f"edgedet {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example_and_the_common_options(cli: Any, verb: str) -> None:
    done = cli("edgedet", verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert f"edgedet-{verb} " in done.stdout or f"edgedet {verb} " in done.stdout.split("Example", 1)[1]
    for option in ("--json", "--debug", "-h"):
        assert option in done.stdout


@pytest.mark.parametrize("verb", SCRIPTS)
def test_a_script_is_its_verb(cli: Any, verb: str) -> None:
    script, verb_help = cli(SCRIPTS[verb], "--help").stdout, cli("edgedet", verb, "--help").stdout
    assert script.splitlines()[2:] == verb_help.splitlines()[2:]
    assert f"Usage: {SCRIPTS[verb]} " in script
    assert f"Usage: edgedet {verb} " in verb_help


def test_an_unknown_verb_gets_a_suggestion(cli: Any) -> None:
    done = cli("edgedet", "exprot")
    assert done.returncode == 2
    assert done.stdout == ""
    assert one_line(done.stderr) == "error [UnknownName]: no verb is named 'exprot'. Did you mean 'export'?"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["edgedet", "--jsno"], "error [UsageError]: edgedet has no option --jsno. Try: edgedet --help"),
        (["edgedet", "doctor", "--jsno"], "--jsno"),
        (["edgedet", "info"], "Missing argument"),
        (["edgedet-run", "--sources", "0", "x.onnx"], "--source"),
        (["edgedet-export", "--modle", "yolo"], "--model"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(cli: Any, args: list[str], expected: str) -> None:
    done = cli(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    line = one_line(done.stderr)
    assert line.startswith("error [UsageError]: ")
    assert expected in line


@pytest.mark.parametrize(
    "args", [["edgedet", "--debug", "info", "x.onnx"], ["edgedet", "info", "x.onnx", "--debug"]]
)
def test_debug_shows_the_traceback_and_the_same_last_line(cli: Any, args: list[str]) -> None:
    plain, debug = cli("edgedet", "info", "x.onnx"), cli(*args)
    assert plain.returncode == debug.returncode == 1
    assert one_line(plain.stderr) == "error [DataError]: There is no file x.onnx. Check the path."
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            WeightsError("No weights.\nNone at all.", hint="Train some."),
            1,
            "No weights. None at all. Train some.",
        ),
        (AccuracyGateFailed("INT8 costs 0.7."), 3, "INT8 costs 0.7."),
        (
            MissingDependency("OpenVINO", extra="cpu", purpose="This"),
            1,
            "This needs OpenVINO, which is not installed. Install it with: pip install 'edgedet[cpu]'",
        ),
    ],
)
def test_named_errors_say_message_and_hint_in_one_line(
    capsys: pytest.CaptureFixture[str], error: EdgedetError, code: int, line: str
) -> None:
    def fail() -> None:
        raise error

    assert _guarded(fail, debug=False) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error [{type(error).__name__}]: {line}\n")


def test_a_bug_is_one_line_that_asks_for_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert _guarded(lambda: 1 // 0, debug=False) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error [ZeroDivisionError]: ")
    assert "--debug" in line
    assert _guarded(lambda: 1 // 0, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_verb_without_its_library_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed

    def call() -> None:
        import torch.nn  # noqa: F401

    assert _guarded(call, debug=False, program="edgedet-train") == 1
    line = one_line(capsys.readouterr().err)
    assert line == (
        "error [MissingDependency]: edgedet-train needs torch, which is not installed. "
        "Install it with: pip install 'edgedet[train]'"
    )
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRA_OF.values()) <= set(extras)


def test_ctrl_c_is_a_word_and_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    for interruption in (KeyboardInterrupt(), typer.Abort()):

        def fail(error: BaseException = interruption) -> None:
            raise error

        assert _guarded(fail, debug=False) == INTERRUPTED
        assert capsys.readouterr().err == "interrupted\n"


def test_a_verb_decides_its_exit_code() -> None:
    def leave() -> None:
        raise typer.Exit(3)

    assert _guarded(leave, debug=False) == 3
    assert _guarded(lambda: 1, debug=False) == 1
    assert _guarded(lambda: None, debug=False) == 0


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = Path(sysconfig.get_path("scripts")) / "edgedet"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [script, "doctor", "--json"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write)
    assert done.returncode == READER_GONE
    assert done.stderr == ""


def test_every_verb_is_a_command_with_debug() -> None:
    for verb in VERBS:
        names = {name for p in command_of(verb).params for name in p.opts}
        assert "--debug" in names
        assert "--json" in names


def test_json_is_all_there_is_on_stdout(cli: Any) -> None:
    report = json.loads(cli("edgedet", "doctor", "--json").stdout)
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
