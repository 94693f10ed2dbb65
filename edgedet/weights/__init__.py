"""What the project trained: a folder per model with weights, calibration cache and model card."""

from __future__ import annotations

from pathlib import Path

from edgedet.contract.errors import WeightsError
from edgedet.models import entry

ROOT = Path(__file__).parent


def shipped() -> list[str]:
    """The models that weights are shipped for."""
    return sorted(p.parent.name for p in ROOT.glob("*/model.safetensors"))


def find(name: str) -> Path:
    """The shipped weights of a model; UnknownName for no such model, WeightsError if none are shipped."""
    data = "masks:PATH" if entry(name).task == "semantic" else "voc:PATH"
    path = ROOT / name / "model.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"No weights are shipped for {name!r} (only for: {', '.join(shipped()) or 'none'}).",
            hint=f"Train some with edgedet-train --model {name} --data {data}, then pass --weights FILE.",
        )
    return path


def calibration_cache(name: str) -> Path | None:
    """The calibration cache shipped beside the weights, or None."""
    path = ROOT / name / "calibration.json"
    return path if path.is_file() else None
