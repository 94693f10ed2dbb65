"""COCO's object instances: one JSON file for a whole data set (Lin et al. 2014; cocodataset.org).

Boxes are x, y, width, height in pixels; category ids are any numbers and become labels in their order;
crowds (`iscrowd`) are ignored objects. JSON has no lines worth naming (these files have one), so problems
name the entry: "annotations[12]".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedet.contract.errors import AnnotationError, DataError, UnknownName
from edgedet.contract.reading import is_file
from edgedet.contract.text import distinct
from edgedet.data import clean
from edgedet.data.clean import BoxList, is_name, measured, real, short
from edgedet.data.coco_masks import CocoMasks, segmentation
from edgedet.data.dataset import Dataset, existing
from edgedet.data.sample import Problems, Truth
from edgedet.data.text import read_text

MAX_JSON = 2 << 30
"""Bytes that an instances file may have; COCO's largest has 0.5 GB."""


def open_coco(path: Path, split: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """A COCO data set.

    Args:
        path: an instances JSON file, or a folder with annotations/instances_SPLIT*.json. The images are
            looked for beside the file, in `images`, and in a folder called as the file ends
            (instances_train2017.json: train2017).
        split: which file of the folder; not looked at if `path` is a file.
        classes: class names, where they are not to be taken from the file.

    Raises:
        DataError: absent, or not laid out like COCO. AnnotationError: not a COCO JSON file.
        UnknownName: no such split. EmptyDataset: no image can be used.
    """
    file = _annotations(existing(path, "coco"), split)
    images, annotations, categories = _lists(file)
    problems = Problems()
    names, labels = _categories(file, categories, classes, problems)
    lists = _images(file, images, problems)
    masks: dict[int, list[Any]] = {key: [] for key in lists}
    seen: dict[int, int] = {}
    for position, entry in enumerate(annotations):
        key = _field(entry, "id")
        before = seen.setdefault(key, position) if _whole(key) else position
        if before != position and annotations[before] == entry:  # files that were joined
            detail = f"annotations[{position}] is annotations[{before}] again: it was dropped"
            problems.add(file, clean.DUPLICATE, detail)
            continue
        _annotation(entry, f"annotations[{position}]", file, lists, masks, labels, problems)
    truths = []
    for key, boxes in lists.items():
        if not is_file(boxes.image):
            problems.add(file, clean.MISSING_IMAGE, str(boxes.image))
            continue
        truths.append(_truth(boxes, masks[key]))
    return Dataset(f"coco:{file.stem}", names, truths, problems)


def _annotations(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    files = {p.stem.removeprefix("instances_"): p for p in sorted(path.glob("annotations/instances_*.json"))}
    if not files:
        raise DataError(
            f"coco:{path} is not laid out like COCO: expected annotations/instances_SPLIT.json in it.",
            hint="Give the JSON file itself: coco:FILE.json.",
        )
    fitting = [name for name in files if name == split] or [
        n for n in files if n.rstrip("0123456789") == split
    ]
    if not fitting:
        raise UnknownName(f"split of {path.name}", split, files)
    if len(fitting) > 1:
        raise DataError(f"coco:{path} has several {split} splits.", hint=f"Name one: {', '.join(fitting)}.")
    return files[fitting[0]]


def _lists(file: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """The three lists of a COCO file."""
    try:
        raw = json.loads(read_text(file, MAX_JSON), object_pairs_hook=distinct)
    except json.JSONDecodeError as e:
        raise AnnotationError(file, e.lineno, f"is not JSON: {e.msg}") from None
    except (ValueError, RecursionError) as e:  # a key twice, thousands of digits, or nested without end
        raise AnnotationError(file, 0, f"is not JSON to rely on: {e}") from None
    found = [raw.get(k) if isinstance(raw, dict) else None for k in ("images", "annotations", "categories")]
    if not all(isinstance(v, list) for v in found):
        raise AnnotationError(
            file,
            0,
            'is not a COCO instances file: expected an object with the lists "images", "annotations" and '
            '"categories"',
        )
    return found[0], found[1], found[2]  # type: ignore[return-value]  # lists, as just checked


def _categories(
    file: Path, categories: list[Any], classes: Sequence[str] | None, problems: Problems
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The class names, and the label of each category id."""
    known: dict[int, str] = {}
    for position, entry in enumerate(categories):
        key, name = _field(entry, "id"), _field(entry, "name")
        if not _whole(key) or not isinstance(name, str):
            problems.add(file, clean.MALFORMED, f"categories[{position}] has no whole id and name")
            continue
        if not is_name(name):
            raise AnnotationError(
                file, 0, f"categories[{position}] is called {short(name)}, which is no name"
            )
        if key in known:
            if known[key] != name:
                detail = f"categories[{position}] gives the id {short(key)} a second name, {short(name)}"
                raise AnnotationError(file, 0, f"{detail}: it is {short(known[key])}")
            problems.add(file, clean.DUPLICATE, f"categories[{position}] repeats the id {short(key)}")
        known[key] = name
    # one name under two ids is one class
    names = tuple(classes) if classes is not None else tuple(dict.fromkeys(known[k] for k in sorted(known)))
    return names, {key: names.index(name) for key, name in known.items() if name in names}


def _images(file: Path, images: list[Any], problems: Problems) -> dict[int, BoxList]:
    """An empty box list for each image id, in the order of the file."""
    names: dict[int, str] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    seen: dict[str, int] = {}
    for position, entry in enumerate(images):
        key, name = _field(entry, "id"), _field(entry, "file_name")
        height, width = _field(entry, "height"), _field(entry, "width")
        if not _whole(key) or not isinstance(name, str) or not is_name(name):
            problems.add(file, clean.MALFORMED, f"images[{position}] has no whole id and file_name")
            continue
        if key in names:
            problems.add(file, clean.DUPLICATE, f"images[{position}] repeats the id {short(key)}")
            continue
        if seen.setdefault(name, key) != key:
            detail = f"images[{position}] and the id {short(seen[name])} are the same file, {short(name)}"
            problems.add(file, clean.DUPLICATE, detail)
        sizes[key] = clean.extent(height, width) if _whole(height) and _whole(width) else None
        names[key] = name
    folder = _image_folder(file, list(names.values())[:20])
    paths = {key: _image_path(folder, name) for key, name in names.items()}
    return {key: BoxList(path, file, sizes[key] or measured(path), problems) for key, path in paths.items()}


def _image_path(folder: Path, name: str) -> Path:
    """The file of an image; some tools on Windows write folders with a backslash."""
    path = folder / name
    other = folder / name.replace("\\", "/")
    return other if other != path and not is_file(path) and is_file(other) else path


def _image_folder(file: Path, names: list[str]) -> Path:
    """The folder that holds most of the first images; beside the file if none does."""
    top, ending = file.parent, file.stem.removeprefix("instances_")
    if top.name == "annotations":
        top = top.parent
    candidates = [
        file.parent,
        top / ending,
        top / "images" / ending,
        top / "images",
        top,
        file.parent / "images",
    ]
    return max(candidates, key=lambda c: sum(is_file(_image_path(c, n)) for n in names))


def _annotation(
    entry: object,
    where: str,
    file: Path,
    lists: dict[int, BoxList],
    masks: dict[int, list[Any]],
    labels: dict[int, int],
    problems: Problems,
) -> None:
    image, category, bbox = _field(entry, "image_id"), _field(entry, "category_id"), _field(entry, "bbox")
    boxes = lists.get(image) if _whole(image) else None
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(real(v) for v in bbox)):
        detail = f"{where}: bbox is {short(bbox)}, expected four numbers"
        problems.add(file, clean.MALFORMED, detail, image=boxes.image if boxes is not None else None)
        return
    if boxes is None:
        problems.add(file, clean.UNKNOWN_IMAGE, f"{where}: no image has the id {short(image)}")
        return
    label = labels.get(category) if _whole(category) else None
    if label is None:
        boxes.note(clean.UNKNOWN_CLASS, f"{where}: category {short(category)} was dropped")
        return
    crowd = _field(entry, "iscrowd")
    if crowd not in (None, 0, 1):
        detail = f"{where}: iscrowd is {short(crowd)}, expected 0 or 1: taken as no crowd"
        boxes.note(clean.UNUSUAL, detail)
    x, y, w, h = (float(v) for v in bbox)
    note = f"{where} (x {x:g}, y {y:g}, width {w:g}, height {h:g})"
    if boxes.add((x, y, x + w, y + h), label, ignore=crowd == 1, line=0, note=note):
        masks[image].append(segmentation(_field(entry, "segmentation")))


def _truth(boxes: BoxList, segmentations: list[Any]) -> Truth:
    if boxes.size is None or any(s is None for s in segmentations):
        return boxes.truth()
    return boxes.truth(masks=CocoMasks(tuple(segmentations), boxes.size, boxes.file, boxes.image.name))


def _field(entry: object, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
