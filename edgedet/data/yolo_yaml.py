"""The `data.yaml` of YOLO data sets: class names and where the splits are. Read as data, never run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgedet.contract.errors import AnnotationError, MissingDependency
from edgedet.data.clean import is_name, short
from edgedet.data.text import read_text

MAX_YAML = 1 << 20
"""Bytes that a data.yaml may have: YAML is slow to read."""

MAX_DEPTH = 32
"""Levels that it may be nested: the time to read it grows with their square."""

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
    root = _parse(file, read_text(file, MAX_YAML))
    entries = _mapping(file, root)
    if entries is None:
        raise AnnotationError(file, 0, "is not a data set description: expected `names:` and `train:`")
    return Described(
        texts={key: _texts(node) for key, node in entries.items() if key != "names"},
        names=_names(file, entries["names"]) if "names" in entries else None,
        key_points=_key_points(file, entries["kpt_shape"]) if "kpt_shape" in entries else None,
        task=next((t for t in TASKS if "task" in entries and entries["task"].text == t), ""),
    )


@dataclass
class _Node:
    """A scalar's text, or the nodes of a sequence or mapping (keys and values in turn)."""

    kind: str  # "scalar", "sequence" or "mapping"
    line: int
    text: str = ""
    nodes: list[_Node] = field(default_factory=list)


def _parse(file: Path, text: str) -> _Node:
    """The first document of a YAML text."""
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingDependency("PyYAML", extra="train", purpose=f"Reading {file.name}") from None
    stack = [_Node("sequence", 0)]
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise AnnotationError(file, line, f"uses the alias *{event.anchor}, which is refused")
            tag = getattr(event, "tag", None)
            if tag not in (None, "!") and tag not in _TAGS:
                raise AnnotationError(file, line, f"is not YAML of plain values: it has the tag {short(tag)}")
            if isinstance(event, yaml.ScalarEvent):
                stack[-1].nodes.append(_Node("scalar", line, event.value))
            elif isinstance(event, yaml.CollectionStartEvent):
                kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
                stack[-1].nodes.append(_Node(kind, line))
                stack.append(stack[-1].nodes[-1])
                if len(stack) > MAX_DEPTH:
                    raise AnnotationError(file, line, f"is nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                stack.pop()
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        reason = f"is not YAML: {getattr(e, 'problem', None) or e}"
        raise AnnotationError(file, mark.line + 1 if mark else 0, reason) from None
    except (ValueError, OverflowError) as e:  # an escape beyond Unicode, which PyYAML does not check
        raise AnnotationError(file, 0, f"is not YAML: {e}") from None
    nodes = stack[0].nodes
    return nodes[0] if len(nodes) == 1 else _Node("sequence", 0)


def _mapping(file: Path, node: _Node) -> dict[str, _Node] | None:
    """The nodes of a mapping by their keys' texts; None for another node."""
    if node.kind != "mapping":
        return None
    found: dict[str, _Node] = {}
    for key, value in zip(node.nodes[0::2], node.nodes[1::2], strict=True):
        if key.kind != "scalar":
            raise AnnotationError(file, key.line, f"has a {key.kind} as a key, expected a text")
        if key.text in found:
            raise AnnotationError(file, key.line, f"has the key {short(key.text)} twice")
        found[key.text] = value
    return found


def _texts(node: _Node) -> list[str]:
    """A text, or a list of texts; nothing for what edgedet does not read (other tools' settings)."""
    nodes = node.nodes if node.kind == "sequence" else [node]
    return [n.text for n in nodes if n.kind == "scalar" and n.text]


def _names(file: Path, node: _Node) -> tuple[str, ...]:
    """A list of names, or a mapping from 0, 1, ... to names."""
    nodes: list[_Node] = []
    if node.kind == "sequence":
        nodes = node.nodes
    else:
        by_number = _mapping(file, node) or {}
        if set(by_number) == {str(k) for k in range(len(by_number))}:
            nodes = [by_number[str(k)] for k in range(len(by_number))]
    if not nodes or any(n.kind != "scalar" or not is_name(n.text.strip()) for n in nodes):
        raise AnnotationError(file, node.line, "`names` is expected to be different names, numbered from 0")
    names = [n.text.strip() for n in nodes]
    seen: set[str] = set()
    for name, one in zip(names, nodes, strict=True):
        if name in seen:
            raise AnnotationError(
                file, one.line, f"`names` has {short(name)} twice, expected different names"
            )
        seen.add(name)
    return tuple(names)


def _key_points(file: Path, node: _Node) -> tuple[int, int]:
    """`kpt_shape`: how many key points there are, and whether each has 2 or 3 numbers."""
    texts = _texts(node) if node.kind == "sequence" else []
    if len(texts) == 2 and texts[0].isdecimal() and len(texts[0]) < 5 and texts[1] in ("2", "3"):
        return int(texts[0]), int(texts[1])
    raise AnnotationError(file, node.line, "`kpt_shape` is expected to be [key points, 2 or 3]")
