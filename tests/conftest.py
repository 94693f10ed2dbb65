"""Fixtures for all tests: the shared data (skips where it is absent), and the installed scripts."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the project; tests that need it skip on a machine without."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the development data in ../shared, which this machine has not")
    return SHARED / "data"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run an installed script as a process of its own: cli("edgedet-run", "model.onnx", cwd=...)."""
    scripts = Path(sysconfig.get_path("scripts"))
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE", "TERM")}

    def call(script: str, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(scripts / script), *map(str, args)]
        env = plain | {"NO_COLOR": "1", "COLUMNS": "120"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, **options)

    return call
