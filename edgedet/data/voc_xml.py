"""One XML file of PASCAL VOC, with the lines that ElementTree does not tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgedet.contract.errors import AnnotationError
from edgedet.data import clean
from edgedet.data.clean import number
from edgedet.data.text import read_labels

MAX_XML = 16 << 20
"""Bytes that one annotation may have."""

_TRUE, _FALSE = ("1", "true", "yes", "y", "t"), ("", "0", "false", "no", "n", "f", "unspecified")
"""How tools write <difficult>; labelme has "yes" and "no", VOC itself 1, 0 and, for poses, Unspecified."""


@dataclass(frozen=True)
class Object:
    """One `<object>`: its name, corner texts as written, VOC's "difficult", and its line in the file.

    remarks: what of it is written as VOC does not, and how it was taken.
    """

    name: str
    corners: tuple[str | None, ...]
    difficult: bool
    line: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotation:
    """One XML file: the image size (height, width), None where it does not say, and its objects."""

    size: tuple[int, int] | None
    objects: tuple[Object, ...]


def parse(file: Path) -> Annotation:
    """Read one VOC XML file.

    Raises:
        AnnotationError: the file is absent, not well-formed, declares entities, or is no VOC annotation.
            The message carries the line.
    """
    root = _tree(file)
    if root.tag != "annotation":
        raise AnnotationError(file, root.line, f"the root is <{root.tag}>, expected <annotation>")
    size = root.child("size")
    height = number(size.text_of("height")) if size else None
    width = number(size.text_of("width")) if size else None
    objects = []
    for node in root.children:
        if node.tag != "object":
            continue
        boxes = [c for c in node.children if c.tag == "bndbox"]
        box = boxes[0] if boxes else None
        difficult, remark = _difficult(node.text_of("difficult"))
        more = f"it has {len(boxes)} <bndbox>, of which the first is taken" if len(boxes) > 1 else ""
        objects.append(
            Object(
                name=node.text_of("name") or "",
                corners=tuple(box.text_of(k) if box else None for k in ("xmin", "ymin", "xmax", "ymax")),
                difficult=difficult,
                line=box.line if box else node.line,
                remarks=tuple(r for r in (remark, more) if r),
            )
        )
    return Annotation(clean.extent(height, width), tuple(objects))


def _difficult(text: str | None) -> tuple[bool, str]:
    """Whether an object is difficult, and what is to be said of how that is written."""
    if text in (None, "0", "1"):
        return text == "1", ""
    plain = str(text).lower()
    value = number(plain)
    difficult = plain in _TRUE or (plain not in _FALSE and value is not None and value != 0)
    how = "difficult" if difficult else "not difficult"
    return difficult, f"<difficult> is {clean.short(text)}, expected 0 or 1: taken as {how}"


@dataclass
class _Node:
    tag: str
    line: int
    texts: list[str] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)

    def child(self, tag: str) -> _Node | None:
        return next((c for c in self.children if c.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        node = self.child(tag)
        return "".join(node.texts).strip() if node else None


def _tree(file: Path) -> _Node:
    """The elements of an XML file with their lines (ElementTree does not tell lines)."""
    data = read_labels(file, MAX_XML)
    top = _Node("", 0)
    stack = [top]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        node = _Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_: str) -> None:
        stack.pop()

    def characters(text: str) -> None:
        stack[-1].texts.append(text)

    def entity(*_: object) -> None:
        raise AnnotationError(file, parser.CurrentLineNumber, "it declares XML entities, which are refused")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as e:
        raise AnnotationError(
            file, e.lineno, f"is not well-formed XML: {expat.errors.messages[e.code]}"
        ) from None
    except (ValueError, LookupError) as e:  # an encoding that does not exist
        raise AnnotationError(file, 1, f"is not well-formed XML: {e}") from None
    return top.children[0]
