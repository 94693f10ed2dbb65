"""PASCAL VOC: one XML file per image (Everingham et al. 2010; the VOC2007 development kit, 2.3).

A data set is a folder with Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt: VOC2007 itself, the
VOCdevkit around it, or any other set in this layout.

Its segmentation half is opened as `voc-seg:PATH`, a kind of its own: it has other images (the lists in
ImageSets/Segmentation), other classes (background, then the 20) and another truth (a class per pixel, no
boxes), so `voc:` with a switch would be two data sets under one name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedet.contract.errors import AnnotationError, DataError, UnknownName
from edgedet.data import clean
from edgedet.data.clean import BoxList, number
from edgedet.data.dataset import Dataset, existing
from edgedet.data.lists import listed_names
from edgedet.data.mask_file import by_stem, class_map_truths
from edgedet.data.mask_labels import labels_of
from edgedet.data.sample import Problems, Truth
from edgedet.data.text import read_text
from edgedet.data.voc_xml import Annotation, parse

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
    files = {p.stem: p for p in sorted((root / "Annotations").glob("*.xml"))}
    images = by_stem(root / "JPEGImages", problems)
    ids = _ids(root, split, problems, "Main", files)
    annotations = {i: files.get(i, root / "Annotations" / f"{i}.xml") for i in ids}
    parsed: dict[str, Annotation] = {}
    for i, file in annotations.items():
        if i not in files:
            problems.add(file, clean.UNREADABLE, "there is no such file")
            continue
        try:
            parsed[i] = parse(file)
        except AnnotationError as e:
            problems.add(file, clean.UNREADABLE, e.reason, line=e.line)
    names = tuple(classes) if classes is not None else _classes(root, parsed)
    labels = {name: k for k, name in enumerate(names)}
    truths = []
    for i, annotation in parsed.items():
        if i not in images:
            problems.add(annotations[i], clean.MISSING_IMAGE, f"JPEGImages has no image {i}")
            continue
        truths.append(_truth(annotation, annotations[i], images[i], labels, problems))
    notes = (*_notes(root.name, split, len(ids), OFFICIAL), *(_alike(names) if classes is None else ()))
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
    ids = _ids(root, split, problems, "Segmentation", masks)
    own = root / "classes.txt"
    text = read_text(own) if own.exists() else "\n".join(SEGMENTED)
    labels = labels_of(text, own)
    if classes is not None:
        labels = labels.only(classes, root)
    images = by_stem(root / "JPEGImages", problems)
    truths = class_map_truths(ids, images, masks, labels, problems, listed_in=root / "JPEGImages")
    notes = _notes(root.name, split, len(ids), OFFICIAL_SEGMENTATION)
    return Dataset(f"voc-seg:{root.name} {split}", labels.classes, truths, problems, notes=notes)


def _truth(
    annotation: Annotation, file: Path, image: Path, labels: dict[str, int], problems: Problems
) -> Truth:
    found = BoxList(image, file, annotation.size or clean.measured(image), problems)
    for thing in annotation.objects:
        label = labels.get(thing.name)
        if label is None:
            found.note(clean.UNKNOWN_CLASS, f"{thing.name!r} was dropped", line=thing.line)
            continue
        for remark in thing.remarks:
            found.note(clean.UNUSUAL, f"{thing.name!r}: {remark}", line=thing.line)
        corners = [number(c) for c in thing.corners]
        if any(c is None for c in corners):
            detail = f"the box of {thing.name!r} is {clean.short(thing.corners)}, expected four numbers"
            found.note(clean.MALFORMED, detail, line=thing.line)
            continue
        x0, y0, x1, y1 = (c or 0.0 for c in corners)
        note = f"{thing.name} ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 <= x0 or y1 <= y0:
            # inclusive corners make this one pixel at best: a slip of the mouse, not an object
            found.note(clean.ZERO_AREA, f"{note} was dropped", line=thing.line)
            continue
        # corners are 1-based and inclusive
        found.add((x0 - 1, y0 - 1, x1, y1), label, ignore=thing.difficult, line=thing.line, note=note)
    return found.truth()


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


def _ids(root: Path, split: str, problems: Problems, lists: str, known: Mapping[str, Path]) -> list[str]:
    """The names that a split lists; "all": those known."""
    if split == "all":
        return sorted(known)
    folder = root / "ImageSets" / lists
    ids: dict[str, None] = {}
    for part in split.split("+"):
        file = folder / f"{part}.txt"
        if not file.exists():
            raise UnknownName(f"split of {root.name}", part, [*(p.stem for p in folder.glob("*.txt")), "all"])
        for name in listed_names(file, known, problems, flags=True):
            if name in ids:
                problems.add(file, clean.DUPLICATE, f"{name} is in several of {split}")
            ids[name] = None
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


def _alike(names: Sequence[str]) -> list[str]:
    """A note for each group of names that were perhaps meant to be one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(clean.plain_name(name), []).append(name)
    return [
        f"{' and '.join(map(repr, group))} are taken as different classes"
        for group in groups.values()
        if len(group) > 1
    ]


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
