"""Photographs with a mask for each object: VOC's SegmentationObject, Penn-Fudan's PedMasks.

A mask file holds the number of the object at each pixel: 0 is background, k the k-th object, VOID (VOC's
border of objects) belongs to none. Boxes are those of the masks. Whose class an object is of is what most of
its pixels are in SegmentationClass; all of Penn-Fudan's are persons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import DataError, ImageError, MaskError, UnknownName
from edgedet.contract.image_files import read_stored
from edgedet.contract.spec import VOID
from edgedet.data import clean
from edgedet.data.clean import BoxList
from edgedet.data.dataset import Dataset, existing
from edgedet.data.lists import listed_names
from edgedet.data.mask_file import by_stem, file_identity
from edgedet.data.sample import Problems, Truth
from edgedet.data.voc import CLASSES


@dataclass(frozen=True, eq=False)
class NumberedMasks:
    """The masks of one file (`edgedet.data.sample.MaskSource`); numbers: of the objects, in their order."""

    path: Path
    numbers: tuple[int, ...]

    def read(self) -> npt.NDArray[np.bool_]:
        """(n, H, W) bool, in the order of the boxes. MaskError: the file cannot be read."""
        numbers = np.asarray(self.numbers, np.int64).reshape(-1, 1, 1)
        masks: npt.NDArray[np.bool_] = np.equal(numbers_in(self.path)[None], numbers)
        return masks

    def identity(self) -> str:
        """Name and bytes of the file, and the objects' numbers."""
        return file_identity(self.path, json.dumps(self.numbers).encode())


def numbers_in(path: Path) -> npt.NDArray[np.generic]:
    """The values of a mask file, (H, W) as stored. MaskError: it cannot be read, or has several channels."""
    try:
        stored = read_stored(path)
    except ImageError as e:
        raise MaskError(path, clean.BROKEN_MASK, e.message.rstrip("."), hint=e.hint) from None
    if stored.ndim != 2:
        raise MaskError(
            path,
            clean.COLOUR_MASK,
            f"it has {stored.shape[2]} channels, expected one of object numbers",
            hint="Use the palette or grey file itself.",
        )
    return stored


def open_instances(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A data set whose objects have masks.

    Args:
        path: VOC20xx (JPEGImages, SegmentationObject, SegmentationClass, ImageSets/Segmentation), or
            Penn-Fudan (JPEGImages or PNGImages, PedMasks, SPLIT.txt).
        split: a list's name, several joined by "+", or "all" for every mask.
        classes: the class names; objects of others are left out. By default VOC's 20, or person.

    Raises:
        DataError: the folder is absent or in neither layout. UnknownName: no such split.
        EmptyDataset: no image of the split can be used.
    """
    root = existing(path, "instances")
    voc = (root / "SegmentationObject").is_dir()
    objects = root / ("SegmentationObject" if voc else "PedMasks")
    folder = next((root / f for f in ("JPEGImages", "PNGImages") if (root / f).is_dir()), root)
    if not objects.is_dir() or folder == root or (voc and not (root / "SegmentationClass").is_dir()):
        raise DataError(
            f"instances:{path} has no masks of objects in a layout known.",
            hint="Give VOC2007 itself (SegmentationObject beside SegmentationClass), or Penn-Fudan's folder; "
            "COCO's masks are read by coco:PATH.",
        )
    problems = Problems()
    images, masks = by_stem(folder, problems), by_stem(objects, problems)
    kinds = by_stem(root / "SegmentationClass", problems) if voc else {}
    names = tuple(classes) if classes is not None else (CLASSES if voc else ("person",))
    truths: dict[str, Truth] = {}
    for stem in _stems(root, root / "ImageSets" / "Segmentation" if voc else root, split, masks, problems):
        file = masks.get(stem) or masks.get(f"{stem}_mask")
        if file is None or stem not in images or (voc and stem not in kinds):
            kind = clean.MISSING_IMAGE if stem not in images else clean.NO_MASK
            problems.add(objects, kind, f"{stem} has not both an image and its masks")
            continue
        try:
            truths[stem] = _truth(images[stem], file, kinds.get(stem), names, problems)
        except MaskError as e:
            problems.add(e.file, e.kind, e.detail)
    return Dataset(f"instances:{root.resolve().name} {split}", names, list(truths.values()), problems)


def _stems(root: Path, lists: Path, split: str, masks: dict[str, Path], problems: Problems) -> list[str]:
    """The names of a split's images."""
    known = [name.removesuffix("_mask") for name in masks]
    if split == "all":
        return known
    found: dict[str, None] = {}
    for part in split.split("+"):
        file = lists / f"{part}.txt"
        if not file.exists():
            there = sorted(p.stem for p in lists.glob("*.txt"))
            raise UnknownName(f"split of {root.resolve().name}", part, [*there, "all"])
        found |= dict.fromkeys(listed_names(file, known, problems))
    return list(found)


def _truth(image: Path, file: Path, kinds: Path | None, names: Sequence[str], problems: Problems) -> Truth:
    """Boxes and classes of the objects of one image. MaskError: a file cannot be used."""
    numbers = numbers_in(file)
    classes = None if kinds is None else numbers_in(kinds)
    if classes is not None and classes.shape != numbers.shape:
        raise MaskError(
            file,
            clean.MASK_SIZE,
            f"it is {numbers.shape}, {kinds} is {classes.shape}",
            hint="Export both again.",
        )
    height, width = numbers.shape
    boxes = BoxList(image, file, (height, width), problems)
    kept = []
    for number in np.unique(numbers).tolist():
        if number in (0, VOID):
            continue
        mask = numbers == number
        y, x = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)
        name = "person"
        if classes is not None:
            most = int(np.bincount(classes[mask].astype(np.int64)).argmax())
            name = CLASSES[most - 1] if 1 <= most <= len(CLASSES) else f"class {most}"
        if name not in names:
            boxes.note(clean.UNKNOWN_CLASS, f"object {number}, {name!r}, was dropped")
        elif boxes.add(box, names.index(name), ignore=False, line=0, note=f"object {number}"):
            kept.append(number)
    return boxes.truth(masks=NumberedMasks(file, tuple(kept)))
