"""YOLO's label files: one text file per image, a line per object: class cx cy w h, as fractions of the image.

Layouts understood: images/SPLIT with labels/SPLIT, SPLIT/images with SPLIT/labels (and folders in them),
images with labels, lists of image files (SPLIT.txt), and what a DATA.yaml names. Labels may lie beside their
images too.

What longer lines are (`edgedet.data.yolo_rows`) is not guessed: polygons, or key points if the data.yaml
says so by `kpt_shape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedet.contract.errors import AnnotationError, DataError, ImageError, UnknownName
from edgedet.contract.image_files import ENDINGS, image_size, list_images
from edgedet.contract.reading import is_file
from edgedet.data import clean
from edgedet.data.clean import BoxList
from edgedet.data.dataset import Dataset, existing
from edgedet.data.sample import Problems, Truth
from edgedet.data.text import class_names, lines
from edgedet.data.yolo_rows import Rows
from edgedet.data.yolo_yaml import Described, read_yaml

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt")


def open_yolo(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A data set with YOLO's text labels.

    Args:
        path: a folder in one of the layouts above with the class names in data.yaml, classes.txt or
            *.names; or the yaml file.
        split: which part of it; a folder of just `images` and `labels` is one part, "all".
        classes: these classes only, in this order, by name; the data set's where it names none.

    Raises:
        DataError: absent, or not laid out like this. AnnotationError: a yaml file, list or list of names
            that cannot be read; rows that may be polygons or key points. UnknownName: no such split.
            EmptyDataset: no image can be used.
    """
    existing(path, "yolo")
    root = path.parent if path.is_file() else path
    yamls = (
        [path] if path.is_file() else [root / n for n in ("data.yaml", "data.yml") if (root / n).is_file()]
    )
    described = read_yaml(yamls[0]) if yamls else Described()
    problems = Problems()
    base = root
    if split in described.texts and split not in ("names", "path"):
        base, files = _from_yaml(yamls[0], described, split, problems)
    else:
        files = _from_folders(root, split, problems)
    own = _names(root, described, classes)
    names = own if classes is None else tuple(classes)
    rows = Rows(own, [names.index(name) if name in names else None for name in own], described)
    truths = []
    shared: dict[Path, Path] = {}
    folders: dict[Path, Path] = {}  # of labels -> of their images
    for file in dict.fromkeys(files):
        labels, *beside = _label_files(file, base)
        if beside:
            folders[labels.parent] = file.parent
        truth = _truth(file, [labels, *beside], rows, problems)
        if truth is None:
            continue
        first = shared.setdefault(file.with_suffix(""), file)
        if first != file:
            problems.add(file, clean.DUPLICATE, f"it has the same label file as {first.name}", image=file)
        truths.append(truth)
    rows.expect_known_kind()
    _note_orphans(folders, problems)
    return Dataset(f"yolo:{root.resolve().name} {split}", names, truths, problems)


def _truth(image: Path, places: list[Path], rows: Rows, problems: Problems) -> Truth | None:
    """What is known of an image, whose labels are in one of `places`; None if one cannot be read."""
    if not is_file(image):
        problems.add(image, clean.MISSING_IMAGE, "listed, but not there")
        return None
    try:
        size = image_size(image)
    except ImageError as e:
        problems.add(image, clean.BROKEN_IMAGE, e.message)
        return None
    file = next((p for p in places if p.exists()), places[0])
    boxes = BoxList(image, file, size, problems)
    if not file.exists():
        what = f"no {file}: taken as an image without objects"
        problems.add(image, clean.NO_LABELS, what, image=image)
        return boxes.truth()
    try:
        rows.read(file, boxes)
    except AnnotationError as e:
        problems.add(file, clean.UNREADABLE, f"{e.reason}; its image is left out", line=e.line)
        return None
    return boxes.truth()


def _note_orphans(folders: dict[Path, Path], problems: Problems) -> None:
    """Note label files that no image has: their images are not there, or of a kind that is not read."""
    for folder, images in folders.items():
        stems = {p.stem for p in list_images(images)}
        for file in sorted(folder.glob("*.txt")):
            if file.stem not in stems and not file.name.startswith(".") and file.name not in NAME_FILES:
                what = f"no image in {images} has this label file's name ({', '.join(ENDINGS)})"
                problems.add(file, clean.MISSING_IMAGE, what)


def _label_files(image: Path, base: Path) -> list[Path]:
    """Where an image's label file may be: .../images/... -> .../labels/....txt, and beside the image.

    The last "images" counts, and of an image under `base` none above it: what lies there is not the data
    set's to rename.
    """
    above = len(base.parts) if image.is_relative_to(base) else 0
    if not above and image.resolve().is_relative_to(base.resolve()):  # the same folder, written otherwise
        above = len(image.parts) - len(image.resolve().relative_to(base.resolve()).parts)
    places = [image.with_suffix(".txt")]
    parts = list(image.parts)
    for k in range(len(parts) - 2, above - 1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            places.insert(0, Path(*parts).with_suffix(".txt"))
            break
    return places


def _from_folders(root: Path, split: str, problems: Problems) -> list[Path]:
    """The image files of a split by the layout of the folders."""
    for folder in (root / "images" / split, root / split / "images"):
        if folder.is_dir():
            return list_images(folder, deep=True)
    if (root / f"{split}.txt").exists():
        return _listed(root / f"{split}.txt", root, problems)
    flat = list_images(root / "images") if (root / "images").is_dir() else []
    if flat and split == "all":
        return flat
    parts = {p.name for p in (root / "images").glob("*") if p.is_dir()}
    parts |= {p.parent.name for p in root.glob("*/images")}
    if parts or flat:
        raise UnknownName(f"split of {root.resolve().name}", split, [*parts, *(["all"] if flat else [])])
    raise DataError(
        f"yolo:{root} is not laid out like YOLO's data: expected images/ and labels/ (or SPLIT/images).",
        hint="Give the folder that holds images and labels, or its data.yaml.",
    )


def _from_yaml(file: Path, described: Described, split: str, problems: Problems) -> tuple[Path, list[Path]]:
    """The folder that a yaml file speaks of, and the image files of a split: folders or lists in it."""
    base = file.parent
    for folder in described.texts.get("path", []):
        if (base / folder).is_dir():  # often another machine's
            base = base / folder
    files: list[Path] = []
    for entry in described.texts[split]:
        place = base / entry
        if not place.exists() and entry.startswith("../"):
            place = base / entry[3:]  # written as if the yaml lay one folder deeper
        if not place.exists():
            raise DataError(f"{file}: {split} is {entry!r}, but {place} does not exist.")
        files += list_images(place, deep=True) if place.is_dir() else _listed(place, base, problems)
    return base, files


def _listed(file: Path, base: Path, problems: Problems) -> list[Path]:
    """The image files that a list names, relative to `base` or to the list."""
    found: dict[Path, None] = {}
    for line, row in enumerate(lines(file), 1):
        if not row:
            continue
        if Path(row).suffix.lower() not in ENDINGS:
            problems.add(file, clean.MISSING_IMAGE, f"{row!r} is no image file", line=line)
            continue
        unix = row.replace("\\", "/")  # as tools on Windows write it
        places = [base / row, file.parent / row, base / unix, file.parent / unix]
        place = next((p for p in places if is_file(p)), places[0])
        if place in found:
            problems.add(file, clean.DUPLICATE, f"{row} is listed twice", line=line)
        found[place] = None
    return list(found)


def _names(root: Path, described: Described, classes: Sequence[str] | None) -> tuple[str, ...]:
    """What the numbers in the label files mean: as the data set says it, else `classes`."""
    if described.names is not None:
        return described.names
    for file in [*(root / n for n in NAME_FILES), *sorted(root.glob("*.names"))]:
        if file.exists():
            return class_names(lines(file), file)
    if classes is not None:
        return tuple(classes)
    raise DataError(
        f"yolo:{root} does not say what its classes are called.",
        hint="Write the names, one per line, to classes.txt in it, or give a data.yaml with names.",
    )
