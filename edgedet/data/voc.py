"""PASCAL VOC: one XML file per image (Everingham et al. 2010; the VOC2007 development kit, 2.3).

A data set is a folder with Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt: VOC2007 itself, the
VOCdevkit around it, or any other set in this layout.

Its segmentation half is opened as `voc-seg:PATH`, a kind of its own: it has other images (the lists in
ImageSets/Segmentation), other classes (background, then the 20) and another truth (a class per pixel, no
boxes), so `voc:` with a switch would be two data sets under one name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgedet.contract.errors import AnnotationError, DataError, UnknownName
from edgedet.contract.image_files import list_images
from edgedet.data import clean
from edgedet.data.clean import BoxList, number
from edgedet.data.dataset import Dataset, existing
from edgedet.data.mask_file import by_stem, class_map_truths
from edgedet.data.mask_labels import labels_of
from edgedet.data.sample import Problems, Truth

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's 20 classes, in the order of its development kit (alphabetical)."""


OFFICIAL = {
    "VOC2007": {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952},
    "VOC2012": {"train": 5717, "val": 5823, "trainval": 11540},
}
"""Images in the official detection splits: figures measured on other splits cannot be compared."""

SEGMENTED = ("background", *CLASSES)
"""The classes of VOC's palette masks, by index."""

OFFICIAL_SEGMENTATION = {
    "VOC2007": {"train": 209, "val": 213, "trainval": 422, "test": 210},
    "VOC2012": {"train": 1464, "val": 1449, "trainval": 2913},
}
"""Images in the official segmentation splits."""


def open_voc(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A VOC data set.

    Args:
        path: VOCdevkit, VOCdevkit/VOC2007, or any folder with Annotations, JPEGImages and ImageSets.
        split: a name in ImageSets/Main ("train", "val"), several joined by "+", or "all" for every
            annotation.
        classes: the class names. By default VOC's 20, if the folder is called VOC20xx or no other name
            stands in its annotations; else the names found in them, sorted.

    Raises:
        DataError: the folder is absent or not laid out like VOC. UnknownName: no such split.
        EmptyDataset: no image of the split can be used.
    """
    root = _root(existing(path, "voc"), "voc", "Annotations")
    problems = Problems()
    ids = _ids(root, split, problems, "Main")
    annotations = {i: root / "Annotations" / f"{i}.xml" for i in ids}
    parsed: dict[str, Annotation] = {}
    for i, file in annotations.items():
        try:
            parsed[i] = parse(file)
        except AnnotationError as e:
            problems.add(file, clean.UNREADABLE, e.reason, line=e.line)
    names = tuple(classes) if classes is not None else _classes(root, parsed)
    labels = {name: k for k, name in enumerate(names)}
    images = {p.stem: p for p in list_images(root / "JPEGImages")}
    truths = []
    for i, annotation in parsed.items():
        if i not in images:
            problems.add(annotations[i], clean.MISSING_IMAGE, f"JPEGImages has no image {i}")
            continue
        truths.append(_truth(annotation, annotations[i], images[i], labels, problems))
    notes = _notes(root.name, split, len(ids), OFFICIAL)
    return Dataset(f"voc:{root.name} {split}", names, truths, problems, notes=notes)


def open_voc_masks(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """VOC's class segmentation: 21 classes, background first; 255, the border of objects, is void.

    Args:
        path: VOCdevkit, VOC20xx, or any folder with SegmentationClass, JPEGImages and ImageSets.
        split: a name in ImageSets/Segmentation ("train", "val"), several joined by "+", or "all" for every
            mask. classes.txt in the folder names other classes (edgedet.data.mask_labels).
        classes: these classes only, in this order; pixels of others are void.

    Raises:
        DataError: the folder is absent, not laid out like this, or has none of `classes`.
        AnnotationError: its classes.txt cannot be used. UnknownName: no such split.
        EmptyDataset: no image of the split can be used.
    """
    root = _root(existing(path, "voc-seg"), "voc-seg", "SegmentationClass")
    problems = Problems()
    masks = by_stem(root / "SegmentationClass", problems)
    ids = sorted(masks) if split == "all" else _ids(root, split, problems, "Segmentation")
    own = root / "classes.txt"
    text = own.read_text(encoding="utf-8-sig", errors="replace") if own.is_file() else "\n".join(SEGMENTED)
    labels = labels_of(text, own)
    if classes is not None:
        labels = labels.only(classes, root)
    images = by_stem(root / "JPEGImages", problems)
    truths = class_map_truths(ids, images, masks, labels, problems, listed_in=root / "JPEGImages")
    notes = _notes(root.name, split, len(ids), OFFICIAL_SEGMENTATION)
    return Dataset(f"voc-seg:{root.name} {split}", labels.classes, truths, problems, notes=notes)


@dataclass(frozen=True)
class Object:
    """One `<object>`: its name, corner texts as written, VOC's "difficult", and its line in the file."""

    name: str
    corners: tuple[str | None, str | None, str | None, str | None]
    difficult: bool
    line: int


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
        box = node.child("bndbox")
        corners = tuple(box.text_of(k) if box else None for k in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(
            Object(
                name=node.text_of("name") or "",
                corners=corners,  # type: ignore[arg-type]  # four of them
                difficult=node.text_of("difficult") == "1",
                line=box.line if box else node.line,
            )
        )
    return Annotation(clean.extent(height, width), tuple(objects))


def _truth(
    annotation: Annotation, file: Path, image: Path, labels: dict[str, int], problems: Problems
) -> Truth:
    found = BoxList(file, annotation.size, problems)
    for thing in annotation.objects:
        label = labels.get(thing.name)
        if label is None:
            problems.add(file, clean.UNKNOWN_CLASS, f"{thing.name!r} was dropped", line=thing.line)
            continue
        corners = [number(c) for c in thing.corners]
        if any(c is None for c in corners):
            detail = f"the box of {thing.name!r} is {thing.corners}, expected four numbers"
            problems.add(file, clean.MALFORMED, detail, line=thing.line)
            continue
        x0, y0, x1, y1 = (c or 0.0 for c in corners)
        note = f"{thing.name} ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 <= x0 or y1 <= y0:
            # inclusive corners make this one pixel at best: a slip of the mouse, not an object
            problems.add(file, clean.ZERO_AREA, f"{note} was dropped", line=thing.line)
            continue
        # corners are 1-based and inclusive
        found.add((x0 - 1, y0 - 1, x1, y1), label, ignore=thing.difficult, line=thing.line, note=note)
    return found.truth(image)


def _root(path: Path, kind: str, labels: str) -> Path:
    """The folder that holds the folder `labels`: the path, or the one VOC folder in it."""
    if (path / labels).is_dir():
        found = [path]
    else:
        found = sorted(
            p.parent for pattern in (f"*/{labels}", f"VOCdevkit/*/{labels}") for p in path.glob(pattern)
        )
    if len(found) > 1:
        names = ", ".join(str(p) for p in found)
        raise DataError(f"{kind}:{path} holds several data sets.", hint=f"Name one of them: {names}.")
    if not found or not (found[0] / "JPEGImages").is_dir():
        others = "coco:, yolo: and folder:" if kind == "voc" else "masks: (images/ and masks/)"
        raise DataError(
            f"{kind}:{path} is not laid out like PASCAL VOC: expected {labels}/, JPEGImages/ and ImageSets/.",
            hint=f"Give the folder that holds {labels}; other formats are {others}.",
        )
    return found[0]


def _ids(root: Path, split: str, problems: Problems, lists: str) -> list[str]:
    if split == "all":
        return sorted(p.stem for p in (root / "Annotations").glob("*.xml"))
    folder = root / "ImageSets" / lists
    ids: dict[str, None] = {}
    for part in split.split("+"):
        file = folder / f"{part}.txt"
        if not file.is_file():
            raise UnknownName(f"split of {root.name}", part, [*(p.stem for p in folder.glob("*.txt")), "all"])
        for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            words = text.split()  # a class's own list has a second column
            if words and words[0] in ids:
                problems.add(file, clean.DUPLICATE, f"{words[0]} is listed twice", line=line)
            elif words:
                ids[words[0]] = None
    return list(ids)


def _notes(name: str, split: str, images: int, splits: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Where the split is not the one that published figures are measured on, say so."""
    official = splits.get(name)
    if official is None or (split == "test" and official.get(split) == images):
        return ()
    if official.get(split) == images:
        return (f"{name}'s own {split} split: not comparable with figures published for its test split",)
    return (
        f"this {split} split ({images} images) is not {name}'s own: not comparable with published figures",
    )


def _classes(root: Path, parsed: dict[str, Annotation]) -> tuple[str, ...]:
    if root.name.startswith("VOC20"):
        return CLASSES
    # over every annotation, so that all splits agree
    names = {o.name for a in parsed.values() for o in a.objects}
    for file in sorted((root / "Annotations").glob("*.xml")):
        if file.stem not in parsed:
            try:
                names.update(o.name for o in parse(file).objects)
            except AnnotationError:
                continue  # not of this split; reported where it is used
    names.discard("")
    return CLASSES if names <= set(CLASSES) else tuple(sorted(names))


@dataclass
class _Node:
    tag: str
    line: int
    text: str = ""
    children: list[_Node] = field(default_factory=list)

    def child(self, tag: str) -> _Node | None:
        return next((c for c in self.children if c.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        node = self.child(tag)
        return node.text.strip() if node else None


def _tree(file: Path) -> _Node:
    """The elements of an XML file with their lines (ElementTree does not tell lines)."""
    try:
        data = file.read_bytes()
    except OSError as e:
        raise AnnotationError(file, 0, f"cannot be read: {e.strerror or e}") from None
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
        stack[-1].text += text

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
