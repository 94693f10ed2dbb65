"""What ships with the package: weights that load, the cache that fits them, a card that is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedet import weights
from edgedet.cli.main import run_verb
from edgedet.contract.errors import UnknownName, WeightsError
from edgedet.models import MODELS

SHIPPED = weights.shipped()


def test_what_ships():
    assert SHIPPED == ["deeplabv3plus", "faster-rcnn", "localizer", "mask-rcnn", "ssd", "yolo"]
    total = sum(f.stat().st_size for f in weights.ROOT.rglob("*.safetensors"))
    assert total < 44 * 2**20


def test_what_does_not_ship_is_said():
    with pytest.raises(UnknownName, match="Did you mean 'yolo'"):
        weights.find("yollo")
    names = ", ".join(SHIPPED)
    with pytest.raises(WeightsError, match=rf"'unet' \(only for: {names}\)") as error:
        weights.find("unet")
    assert "--data masks:PATH" in (error.value.hint or "")
    assert set(SHIPPED) <= set(MODELS)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_complete(name):
    card = (weights.ROOT / name / "README.md").read_text()
    for part in ("**Data.**", "**Recipe.**", "**Accuracy** on", "| openvino INT8 |", "**What it is bad"):
        assert part in card
    assert f"tools/train_weights {name}" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_cache_quantises_the_weights_without_an_image(name, tmp_path: Path, capsys):
    pytest.importorskip("openvino")
    arguments = ["--model", name, "--int8", "--target", "openvino", "--accept-unmeasured"]
    code = run_verb("export", [*arguments, "-o", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    report = json.loads((tmp_path / f"{name}-int8.report.json").read_text())
    facts = report["facts"]
    assert facts["quantisation"]["int8 convolutions"] == facts["quantisation"]["convolutions"] > 50
    assert facts["calibration"]["images"] >= 120
