"""Folders of images with a mask each: CamVid, ISBI 2012, Penn-Fudan, and a user's own.

A mask is a PNG (or TIFF) of one channel: a label per pixel, or the indices of a palette; its name is its
image's, or its image's and "_mask". A folder of one's own looks like one of these:

    images/a.jpg        masks/a.png             one part, or parts by lists of names: train.txt, val.txt
    images/train/a.jpg  masks/train/a.png       a part per folder, or train/images and train/masks
    classes.txt                                 class names and values: edgedet.data.mask_labels

Without classes.txt the masks of such a folder are 0 background and 255 foreground. Where neither folders nor
lists say what belongs to which part, the last fifth (by name, so that the neighbours of a stack or film
stay together) is "val", the rest "train"; "all" is everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedet.contract.errors import DataError, UnknownName
from edgedet.data import clean
from edgedet.data.dataset import Dataset, existing
from edgedet.data.lists import listed_names
from edgedet.data.mask_file import by_stem, class_map_truths
from edgedet.data.mask_labels import Labels, labels_of
from edgedet.data.sample import Problems, Truth
from edgedet.data.text import read_text

# the 11 classes of Badrinarayanan et al. 2017 (SegNet), in the order of its masks
CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist void".replace(" ", "\n")
# Cardona et al. 2010; class 1 is what is looked for
ISBI = "255: cell\n0: membrane"
# Wang et al. 2007: k is the k-th pedestrian
PENN_FUDAN = "0: background\n1-255: person"
BINARY = "0: background\n255: foreground"

HELD_OUT = 5
"""One image in so many is val where nothing says what is."""


@dataclass(frozen=True)
class Layout:
    """Where images and masks lie ("*" stands for the name of a part), and what the labels mean there.

    classes: in the words of a classes.txt, which goes before it; data: what is known by this layout.
    """

    images: str
    masks: str
    classes: str = BINARY
    data: str = ""


LAYOUTS = (
    Layout("images/*", "masks/*"),
    Layout("images", "masks"),
    Layout("*/images", "*/masks"),
    Layout("*", "*annot", CAMVID, "CamVid as SegNet has it, 11 classes"),
    Layout("image", "label", ISBI, "ISBI 2012"),
    Layout("PNGImages", "PedMasks", PENN_FUDAN, "Penn-Fudan"),
    Layout("JPEGImages", "PedMasks", PENN_FUDAN, "Penn-Fudan"),
)
"""The first that fits is used."""


def open_masks(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A data set of images and masks, in one of the layouts above.

    Args:
        path: its folder.
        split: a folder's or list's name, "train" or "val" where there is neither, "all" (of a data set that
            is not split by folders), or several joined by "+".
        classes: these classes only, in this order; pixels of others are void.

    Raises:
        DataError: the folder is absent, in no layout known, or has none of `classes`. AnnotationError: its
            classes.txt cannot be used. UnknownName: no such split. EmptyDataset: no image of it can be used.
    """
    root = existing(path, "masks")
    layout, parts = _layout(root)
    labels, notes = _labels(root, layout)
    if classes is not None:
        labels = labels.only(classes, root)
    problems = Problems()
    truths: dict[Path, Truth] = {}  # a dictionary: "train+all" names some twice
    for part in split.split("+"):
        for truth in _part(root, part, parts, labels, problems, notes):
            truths[truth.path] = truth
    name = f"masks:{root.resolve().name} {split}"
    return Dataset(name, labels.classes, list(truths.values()), problems, notes=tuple(dict.fromkeys(notes)))


def _layout(root: Path) -> tuple[Layout, dict[str, tuple[Path, Path]]]:
    """The layout of a folder, and its (images, masks) folders by part; "": it is not split by folders."""
    for layout in LAYOUTS:
        before, _, after = layout.masks.partition("*")
        found: dict[str, tuple[Path, Path]] = {}
        for masks in sorted(p for p in root.glob(layout.masks) if p.is_dir()):
            name = masks.relative_to(root).as_posix()
            name = name[len(before) : len(name) - len(after)] if "*" in layout.masks else ""
            images = root / layout.images.replace("*", name)
            if images.is_dir() and images != root:
                found[name] = images, masks
        if found:
            return layout, found
    raise DataError(
        f"masks:{root} is in no layout known of images and masks.",
        hint="Put the images into images/ and masks of the same names into masks/, with a classes.txt beside "
        "them (one class name per line); VOC's palette masks are voc-seg:PATH.",
    )


def _labels(root: Path, layout: Layout) -> tuple[Labels, list[str]]:
    """What the labels mean, and what is to be said of it."""
    file = root / "classes.txt"
    if file.exists():
        return labels_of(read_text(file), file), []
    known = layout.data or "0 background, 255 foreground"
    return labels_of(layout.classes, file), [f"no classes.txt: the masks are read as {known}"]


def _part(
    root: Path,
    part: str,
    parts: dict[str, tuple[Path, Path]],
    labels: Labels,
    problems: Problems,
    notes: list[str],
) -> list[Truth]:
    """The images of one part of the data set, with their masks."""
    if "" not in parts and part not in parts:
        raise UnknownName(f"split of {root.resolve().name}", part, parts)
    folder, mask_folder = parts.get(part, parts.get("", (root, root)))
    images, masks = by_stem(folder, problems), by_stem(mask_folder, problems)
    for stem, mask in masks.items():
        if stem not in images and stem.removesuffix("_mask") not in images:
            problems.add(mask, clean.MISSING_IMAGE, "no image has this mask's name")
    listed = root / f"{part}.txt"
    stems = list(images)
    if part not in parts and part != "all":
        if listed.exists():
            stems = listed_names(listed, images, problems)
        else:
            stems = _held_out(root, part, stems)
            notes.append(
                f"nothing says what is train and what val: val is the last fifth by name, train the rest "
                f"({part}: {len(stems)} of {len(images)} images)"
            )
    return class_map_truths(stems, images, masks, labels, problems, listed_in=listed)


def _held_out(root: Path, part: str, stems: list[str]) -> list[str]:
    """The stems of "train" or "val" where no list says them."""
    lists = {p.stem for p in root.glob("*.txt")} & {"train", "val"}
    first = len(stems) - max(1, len(stems) // HELD_OUT)
    if lists or part not in ("train", "val"):
        raise UnknownName(f"split of {root.resolve().name}", part, [*(lists or ("train", "val")), "all"])
    return stems[first:] if part == "val" else stems[:first]
