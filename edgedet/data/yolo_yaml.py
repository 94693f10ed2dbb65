"""The `data.yaml` of YOLO data sets: class names and where the splits are. Read as data, never run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedet.contract.errors import AnnotationError, MissingDependency
from edgedet.data.clean import short
from edgedet.data.text import read_text

MAX_YAML = 1 << 20
"""Bytes that a data.yaml may have: YAML is slow to read."""

TASKS = ("detect", "segment", "obb", "pose")
"""What `task` may say of the rows of the label files."""

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


@dataclass(frozen=True)
class Described:
    """What a data.yaml says, every scalar as it is written.

    texts: {"path": [folder], "train": folders or lists, ...}: every key with texts; names: the class names,
    None without them; key_points: (how many, numbers of each) from `kpt_shape`; task: one of TASKS or "".
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    key_points: tuple[int, int] | None = None
    task: str = ""


def read_yaml(file: Path) -> Described:
    """Read a data.yaml.

    Nothing is constructed from it but texts, so a class may be called 7, no or 2020-01-01. Aliases are
    refused: a few lines of them stand for more than fits into memory.

    Raises:
        AnnotationError: the file cannot be read, is no YAML mapping, names a key twice or uses aliases; its
            `names` are not one name per number from 0 on; its `kpt_shape` is none.
        MissingDependency: PyYAML is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingDependency("PyYAML", extra="train", purpose=f"Reading {file.name}") from None
    text = read_text(file, MAX_YAML)
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise AnnotationError(file, line, f"uses the alias *{event.anchor}, which is refused")
            tag = getattr(event, "tag", None)
            if tag not in (None, "!") and tag not in _TAGS:
                raise AnnotationError(file, line, f"is not YAML of plain values: it has the tag {short(tag)}")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        reason = f"is not YAML: {getattr(e, 'problem', None) or e}"
        raise AnnotationError(file, mark.line + 1 if mark else 0, reason) from None
    except RecursionError:
        raise AnnotationError(file, 0, "is not YAML that can be read: it is nested too deep") from None
    entries = _mapping(file, root)
    if entries is None:
        raise AnnotationError(file, 0, "is not a data set description: expected `names:` and `train:`")
    return Described(
        texts={key: _texts(node) for key, node in entries.items() if key != "names"},
        names=_names(file, entries["names"]) if "names" in entries else None,
        key_points=_key_points(file, entries["kpt_shape"]) if "kpt_shape" in entries else None,
        task=next((t for t in TASKS if "task" in entries and entries["task"].value == t), ""),
    )


def _mapping(file: Path, node: Any) -> dict[str, Any] | None:
    """The nodes of a mapping by their keys' texts; None for another node."""
    if getattr(node, "id", None) != "mapping":
        return None
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise AnnotationError(file, line, f"has a {key.id} as a key, expected a text")
        if key.value in found:
            raise AnnotationError(file, line, f"has the key {short(key.value)} twice")
        found[key.value] = value
    return found


def _texts(node: Any) -> list[str]:
    """A text, or a list of texts; nothing for what edgedet does not read (other tools' settings)."""
    nodes = node.value if node.id == "sequence" else [node]
    return [n.value for n in nodes if n.id == "scalar" and n.value]


def _names(file: Path, node: Any) -> tuple[str, ...]:
    """A list of names, or a mapping from 0, 1, ... to names."""
    nodes: list[Any] = []
    if node.id == "sequence":
        nodes = node.value
    else:
        by_number = _mapping(file, node) or {}
        if set(by_number) == {str(k) for k in range(len(by_number))}:
            nodes = [by_number[str(k)] for k in range(len(by_number))]
    line = node.start_mark.line + 1
    if not nodes or any(n.id != "scalar" or not n.value.strip() for n in nodes):
        raise AnnotationError(file, line, "`names` is expected to be different names, numbered from 0")
    names = [n.value.strip() for n in nodes]
    if len(set(names)) != len(names):
        twice = next(n for k, n in enumerate(names) if n in names[:k])
        raise AnnotationError(file, line, f"`names` has {short(twice)} twice, expected different names")
    return tuple(names)


def _key_points(file: Path, node: Any) -> tuple[int, int]:
    """`kpt_shape`: how many key points there are, and whether each has 2 or 3 numbers."""
    texts = [n.value for n in node.value if n.id == "scalar"] if node.id == "sequence" else []
    if len(texts) == 2 and texts[0].isdecimal() and len(texts[0]) < 5 and texts[1] in ("2", "3"):
        return int(texts[0]), int(texts[1])
    line = node.start_mark.line + 1
    raise AnnotationError(file, line, "`kpt_shape` is expected to be [key points, 2 or 3]")
