"""Fixtures for all tests: the shared data (skips where it is absent), and seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the project; tests that need it skip on a machine without."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the development data in ../shared, which this machine has not")
    return SHARED / "data"
