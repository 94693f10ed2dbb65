"""Numbers that no option can mean: a usage error that names the option, before any work."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_args, get_type_hints

import pytest

from edgedet.cli.main import VERBS, command_of, run_verb

ENOUGH = {
    "train": ["--model", "yolo", "--data", "voc:absent"],
    "export": [],
    "eval": ["absent.onnx", "--data", "voc:absent"],
    "run": ["absent.onnx", "--source", "absent.mp4"],
    "bench": ["absent.onnx", "--source", "absent.mp4"],
    "info": ["absent.onnx"],
    "doctor": [],
}
"""What each verb needs, of files that are not there: work would say that, with another exit code."""

NONE = {float: ("nan", "inf", "-inf", "1e999", "-1", "x"), int: ("nan", "1.5", "-1", "x")}


def numeric(verb: str) -> dict[str, type]:
    """{option: int or float} of each option of a verb that takes numbers."""
    entry = VERBS[verb]
    hints = get_type_hints(getattr(import_module(entry.module), entry.function))
    names = {p.name: p.opts[0] for p in command_of(verb).params}
    kinds = {name: next((k for k in NONE if k in flat(hint)), None) for name, hint in hints.items()}
    return {names[name]: kind for name, kind in kinds.items() if kind is not None and name != "return"}


def flat(hint: Any) -> list[Any]:
    """The types in an annotation."""
    return [hint] if not get_args(hint) else [t for a in get_args(hint) for t in flat(a)]


def refused(capsys: pytest.CaptureFixture[str], verb: str, *more: str) -> str:
    """What the verb says, which must be a usage error."""
    assert run_verb(verb, [*ENOUGH[verb], *more]) == 2, capsys.readouterr().err
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error [UsageError]: ")
    return line


@pytest.mark.parametrize("verb", VERBS)
def test_no_number(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    for option, kind in numeric(verb).items():
        for value in NONE[kind]:
            assert option in refused(capsys, verb, option, value)


@pytest.mark.parametrize(
    ("verb", "option", "value", "said"),
    [
        ("train", "--lr", "0", "lr is 0.0, expected a finite number above 0"),
        ("train", "--epochs", "0", "--epochs"),
        ("train", "--batch", "0", "--batch"),
        ("train", "--state-every", "0", "--state-every"),
        ("train", "--window", "0", "window"),
        ("train", "--window", "99999999x320", "window"),
        ("train", "--scale", "nan,2", "--scale"),
        ("train", "--scale", "1,inf", "--scale"),
        ("train", "--option", "giou=NaN", "giou"),
        ("train", "--workers", "1000000", "--workers"),
        ("export", "--calib-images", "0", "--calib-images"),
        ("export", "--max-drop", "101", "--max-drop"),
        ("export", "--sm", "nan", "--sm"),
        ("eval", "--limit", "0", "--limit"),
        ("eval", "--trimap", "0", "--trimap"),
        ("run", "--threads", "1000000", "--threads"),
        ("run", "--limit", "0", "--limit"),
        ("bench", "--streams", "1000000", "--streams"),
        ("bench", "--rounds", "0", "--rounds"),
    ],
)
def test_beyond_what_can_be_meant(
    capsys: pytest.CaptureFixture[str], verb: str, option: str, value: str, said: str
) -> None:
    assert said in refused(capsys, verb, option, value)


def test_every_verb_is_asked() -> None:
    assert ENOUGH.keys() == VERBS.keys()
    assert {"--lr", "--epochs", "--seed", "--workers"} <= numeric("train").keys()
    assert {"--max-drop", "--min-agreement", "--calib-images"} <= numeric("export").keys()
    assert {"--iou", "--limit", "--trimap"} <= numeric("eval").keys()
    assert {"--score", "--tile", "--timeout", "--reconnects"} <= numeric("run").keys()
    assert {"--frames", "--rounds", "--threads"} <= numeric("bench").keys()
