"""The tool that packs trained weights: what was not measured is not a figure, and is said before training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def card() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_card", TOOLS / "model_card.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_class_without_objects_is_not_the_worst(card: ModuleType) -> None:
    figures = {"cat": 0.5, "bus": None, "dog": 0.25, "cow": 0.75}
    found = {"classes": [{"name": name, "ap11": value} for name, value in figures.items()]}
    table, worst = card._per_class(found, found, "ap11", "AP")
    assert worst == "dog"
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["cow", "cat", "dog", "bus"]
    assert "| bus | -- | -- |" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "nowhere"), "nowhere"),
        (("--notes", "nowhere.md"), "nowhere.md"),
    ],
)
def test_what_packing_needs_is_looked_at_before_training(
    voc: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    call = [sys.executable, str(TOOLS / "train_weights"), "yolo", "--data", f"voc:{voc}", *options]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert not list(tmp_path.iterdir())
