"""YOLO's label files: one text file per image, a line per object: class cx cy w h, as fractions of the image.

Layouts understood: images/SPLIT with labels/SPLIT, SPLIT/images with SPLIT/labels, images with labels,
lists of image files (SPLIT.txt), and what a DATA.yaml names. A line of a class and three or more points
(a polygon) counts as the box around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedet.contract.errors import AnnotationError, DataError, ImageError, UnknownName
from edgedet.contract.image_files import ENDINGS, image_size, list_images
from edgedet.data import clean
from edgedet.data.clean import BoxList, number
from edgedet.data.dataset import Dataset, existing
from edgedet.data.sample import Problems, Truth
from edgedet.data.yolo_yaml import read_yaml

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt")


def open_yolo(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A data set with YOLO's text labels.

    Args:
        path: a folder in one of the layouts above with the class names in data.yaml, classes.txt or
            *.names; or the yaml file.
        split: which part of it; a folder of just `images` and `labels` is one part, "all".
        classes: class names, where none are given there.

    Raises:
        DataError: absent, or not laid out like this. AnnotationError: a yaml file that cannot be read.
        UnknownName: no such split. EmptyDataset: no image can be used.
    """
    existing(path, "yolo")
    root = path.parent if path.is_file() else path
    yamls = (
        [path] if path.is_file() else [root / n for n in ("data.yaml", "data.yml") if (root / n).is_file()]
    )
    described = read_yaml(yamls[0]) if yamls else {}
    problems = Problems()
    listed = split in described and split not in ("names", "path")
    files = _from_yaml(yamls[0], described, split) if listed else _from_folders(root, split)
    names = tuple(classes) if classes is not None else _names(root, described)
    truths = []
    for file in files:
        if not file.is_file():
            problems.add(file, clean.MISSING_IMAGE, "listed, but not there")
            continue
        try:
            size = image_size(file)
        except ImageError as e:
            problems.add(file, clean.BROKEN_IMAGE, e.message)
            continue
        truths.append(_truth(file, size, names, problems))
    return Dataset(f"yolo:{root.resolve().name} {split}", names, truths, problems)


def _truth(image: Path, size: tuple[int, int], names: tuple[str, ...], problems: Problems) -> Truth:
    file = _label_file(image)
    boxes = BoxList(file, size, problems)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.add(image, clean.NO_LABELS, "taken as an image without objects")
        return boxes.truth(image)
    except (OSError, UnicodeDecodeError) as e:
        problems.add(file, clean.UNREADABLE, str(e))
        return boxes.truth(image)
    seen: set[str] = set()
    for line, row in enumerate(text.splitlines(), 1):
        words = row.split()
        if not words:
            continue
        if row in seen:
            problems.add(file, clean.DUPLICATE, f"{row.strip()!r} was dropped", line=line)
            continue
        seen.add(row)
        values = [number(w) for w in words]
        known = [v for v in values if v is not None]
        if len(known) < len(values) or not (len(known) == 5 or (len(known) >= 7 and len(known) % 2)):
            detail = f"{row.strip()!r}, expected: class cx cy w h"
            problems.add(file, clean.MALFORMED, detail, line=line)
            continue
        label, *rest = known
        if label != int(label) or not 0 <= label < len(names):
            detail = f"class {label:g} of 0 to {len(names) - 1} was dropped"
            problems.add(file, clean.UNKNOWN_CLASS, detail, line=line)
            continue
        boxes.add(_corners(rest, size), int(label), ignore=False, line=line, note=row.strip()[:60])
    return boxes.truth(image)


def _corners(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A line's numbers after the class, as fractions -> corners in pixels."""
    height, width = size
    if len(values) == 4:
        cx, cy, w, h = values
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        x0, y0, x1, y1 = min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
    return x0 * width, y0 * height, x1 * width, y1 * height


def _label_file(image: Path) -> Path:
    """.../images/... -> .../labels/....txt (the last "images" counts); beside the image without one."""
    parts = list(image.parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _from_folders(root: Path, split: str) -> list[Path]:
    """The image files of a split by the layout of the folders."""
    for folder in (root / "images" / split, root / split / "images"):
        if folder.is_dir():
            return list_images(folder)
    if (root / f"{split}.txt").is_file():
        return _listed(root / f"{split}.txt", root)
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


def _from_yaml(file: Path, described: dict[str, list[str]], split: str) -> list[Path]:
    """The image files of a split that a yaml file names: folders or lists, relative to its `path`."""
    base = file.parent
    for folder in described.get("path", []):
        if (base / folder).is_dir():  # often another machine's
            base = base / folder
    files: list[Path] = []
    for entry in described[split]:
        place = base / entry
        if not place.exists() and entry.startswith("../"):
            place = base / entry[3:]  # written as if the yaml lay one folder deeper
        if not place.exists():
            raise DataError(f"{file}: {split} is {entry!r}, but {place} does not exist.")
        files += list_images(place) if place.is_dir() else _listed(place, base)
    return files


def _listed(file: Path, base: Path) -> list[Path]:
    rows = (row.strip() for row in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return [base / row for row in rows if Path(row).suffix.lower() in ENDINGS]


def _names(root: Path, described: dict[str, list[str]]) -> tuple[str, ...]:
    if "names" in described:
        return tuple(described["names"])
    for file in [*(root / n for n in NAME_FILES), *sorted(root.glob("*.names"))]:
        if file.is_file():
            rows = file.read_text(encoding="utf-8", errors="replace").splitlines()
            found = tuple(row.strip() for row in rows if row.strip())
            if len(set(found)) != len(found):
                raise AnnotationError(file, 0, "names a class twice")
            return found
    raise DataError(
        f"yolo:{root} does not say what its classes are called.",
        hint="Write the names, one per line, to classes.txt in it, or give a data.yaml with names.",
    )
