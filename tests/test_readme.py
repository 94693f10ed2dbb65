"""The documents keep their word: every option they name exists, their Python runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edgedet.cli.main import VERBS, command_of, overview

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "tools/demo",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("edgedet/weights/*/README.md")),
]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(verb, its options) of every edgedet command in a text; a backslash continues a line."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for call in re.split(r"&&|\|", line):
            match = re.search(r"\bedgedet[- ]([a-z]+)\b(?!/)\"?(.*)", call.split(" #")[0])
            if match and match[1] in VERBS:
                found.append((match[1], re.findall(r"(?<=\s)(--?[a-z][a-z0-9-]*)", match[2])))
    return found


def check(text: str, where: str) -> int:
    known = {
        verb: {o for p in command_of(verb).params for o in (*p.opts, *p.secondary_opts)} for verb in VERBS
    }
    for verb in VERBS:
        known[verb] |= {"--help", "-h"}
    calls = commands(text)
    for verb, options in calls:
        assert set(options) <= known[verb], f"{where}: edgedet-{verb} has no {set(options) - known[verb]}"
    return len(calls)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if (ROOT / d).exists()])
def test_every_option_in_a_document_exists(document: str) -> None:
    check((ROOT / document).read_text(), document)


def test_the_commands_of_the_readme_are_seen() -> None:
    verbs = {verb for verb, _ in commands((ROOT / "README.md").read_text())}
    assert verbs == set(VERBS)
    assert commands("x `edgedet-run a.onnx --source 0`") == [("run", ["--source"])]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_in_an_example_of_help_exists(verb: str) -> None:
    entry = VERBS[verb]
    text = inspect.getdoc(getattr(import_module(entry.module), entry.function)) or ""
    assert check(text, verb) >= 1


def test_every_option_in_the_overview_exists() -> None:
    assert check(overview().splitlines()[-1], "overview") == 2


def test_the_python_of_the_readme_runs(
    tiny_model: Callable[..., Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = code.replace('"out/yolo-int8.onnx"', repr(str(tiny_model()))).replace(
        '"bikes.mp4"', repr(str(clip))
    )
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # our own text
    lines = capsys.readouterr().out.splitlines()
    assert "thing" in lines[0]
    assert float(lines[-1].split()[0]) > 0


def test_one_picture_and_the_network_alone(tiny_model: Callable[..., Path]) -> None:
    from edgedet.contract.results import Detections
    from edgedet.runtime import open_engine, open_predictor

    with open_predictor(tiny_model()) as predictor:
        result = predictor(np.zeros((80, 96, 3), np.uint8))
        assert isinstance(result, Detections)
        assert len(result) == 4
    with open_engine(tiny_model()) as engine:
        outputs = engine.infer({"images": np.zeros((1, 3, 64, 64), np.float32)})
        assert outputs["grid"].shape == (1, 7, 2, 2)
