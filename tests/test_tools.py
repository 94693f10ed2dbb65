"""The scripts a newcomer runs first: what they say when Python is not as they need it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts and what they need to see, in a folder whose name has a space."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "tools", root / "tools")
    shutil.copy2(ROOT / "pyproject.toml", root)
    return root


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def environment(
    root: Path, *arguments: str, python: Path | str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Source tools/environment.sh as the scripts do and make an environment."""
    code = f'set -euo pipefail; . "$1/tools/environment.sh"; make_environment {" ".join(arguments)}'
    command = ["bash", "-c", code, str(root / "tools" / "demo"), str(root)]
    env = os.environ | {"PYTHON": str(python)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, cwd=root.anchor)


def test_a_python_too_old_is_named(checkout: Path) -> None:
    old = script(checkout / "old-python", 'case "$1" in --version) echo Python 3.8.10;; *) exit 1;; esac')
    for tool in ("demo", "test"):
        done = subprocess.run(
            [checkout / "tools" / tool], capture_output=True, text=True, env=os.environ | {"PYTHON": str(old)}
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{tool}: edgedet needs Python 3.10 or newer; found: {old} (Python 3.8.10).")
        assert not (checkout / ".venv").exists()


def test_no_python_at_all(checkout: Path) -> None:
    done = environment(checkout, "demo", python="no-such-python")
    assert done.returncode == 1
    assert "found: none" in done.stderr


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (
            "The virtual environment was not created successfully because ensurepip is not available.",
            "python3-venv",
        ),
        ("Error: [Errno 28] No space left on device", "No space left on device"),
    ],
)
def test_a_venv_that_cannot_be_made_is_named_and_leaves_nothing(
    checkout: Path, says: str, expected: str
) -> None:
    broken = script(
        checkout / "python-without-venv",
        f'[ "$2" != venv ] || {{ mkdir -p "$3/bin"; echo "{says}"; exit 1; }}\nexec "{sys.executable}" "$@"',
    )
    done = environment(checkout, "demo", python=broken)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert not (checkout / ".venv").exists()


def stamp(root: Path, extra: str) -> None:
    """An environment that is this one, stamped as made for `extra`."""
    (root / ".venv/bin").mkdir(parents=True, exist_ok=True)
    python = root / ".venv/bin/python"
    if not python.exists():
        script(
            python,
            f'case "$*" in *"pip install"*) echo installing; exit 7;; esac\nexec "{sys.executable}" "$@"',
        )
    code = f'. "$1/tools/environment.sh"; fingerprint "$BIN/python" > "$VENV/.edgedet-{extra}"'
    subprocess.run(["bash", "-c", code, "stamp", str(root)], check=True)


def test_an_environment_of_this_pyproject_is_used_again(checkout: Path) -> None:
    stamp(checkout, "demo")
    done = environment(checkout, "demo", "dev")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "environment .venv is up to date\n"


def test_the_wider_environment_serves_the_narrower_but_not_the_other_way_round(checkout: Path) -> None:
    stamp(checkout, "dev")
    assert environment(checkout, "demo", "dev").stdout == "environment .venv is up to date\n"
    (checkout / ".venv/.edgedet-dev").rename(checkout / ".venv/.edgedet-demo")
    done = environment(checkout, "dev")
    assert "Making the environment" in done.stdout
    assert "installing" in done.stdout


def test_a_changed_pyproject_installs_again_and_a_failure_leaves_no_stamp(checkout: Path) -> None:
    stamp(checkout, "demo")
    with (checkout / "pyproject.toml").open("a") as f:
        f.write("\n# changed\n")
    for _ in range(2):
        done = environment(checkout, "demo", "dev")
        assert done.returncode == 1
        assert "installing" in done.stdout
        assert "installing edgedet[demo] failed" in done.stderr


@pytest.mark.parametrize("tool", ["demo", "test"])
def test_help_of_the_tools(tool: str) -> None:
    done = subprocess.run([ROOT / "tools" / tool, "--help"], capture_output=True, text=True, check=True)
    assert f"tools/{tool}" in done.stdout
    assert not done.stdout.startswith("#")
