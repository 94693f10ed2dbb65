"""Data sets of several formats as one type; `open_dataset` opens them all. Needs no torch.

`edgedet.data.augment` (which does) is imported by those who train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgedet.contract.errors import DataError, UnknownName, UsageError
from edgedet.data.dataset import Dataset
from edgedet.data.sample import Problem, Problems, Sample, Truth

__all__ = ["Dataset", "Problem", "Problems", "Sample", "Truth", "open_dataset", "open_datasets"]

KINDS = ("voc", "coco", "yolo", "voc-seg", "masks", "instances", "folder")
"""What may stand before the colon."""


def open_dataset(spec: str, split: str = "train", *, classes: Sequence[str] | None = None) -> Dataset:
    """Open a data set by its spec string.

    Args:
        spec: `voc:PATH` (VOCdevkit, VOC2007, or a folder laid out like it), `coco:FILE.json` or
            `coco:FOLDER`, `yolo:FOLDER` or `yolo:DATA.yaml`; with a class per pixel: `voc-seg:PATH`
            (VOC's SegmentationClass), `masks:FOLDER` (CamVid, ISBI, Penn-Fudan, or images/ and masks/);
            with a mask per object: `instances:PATH` (VOC's SegmentationObject, Penn-Fudan);
            `folder:PATH` (images without truth).
        split: the part of the data set; ignored where the format knows none.
        classes: class names, where they are not to be taken from the data set.

    Raises:
        UsageError: the spec is not KIND:PATH. UnknownName: no such kind, or no such split.
        DataError: the path does not exist or is not in this format. EmptyDataset: nothing is usable, or
            its boxes are to be read and there is no object. All say what was left out and why; of a data
            set that opens, `Dataset.left_out` and its notes say it.
    """
    kind, colon, path = spec.partition(":")
    if not colon or not path or len(kind) == 1:  # one letter: a Windows drive
        raise UsageError(
            f"{spec!r} is not KIND:PATH.", hint=f"Kinds: {', '.join(KINDS)}; for example voc:VOCdevkit."
        )
    if "\0" in spec or "\0" in split:
        raise UsageError(f"{spec!r} {split!r} holds a null byte, which no path can.")
    try:
        dataset = _open(kind, _home(path), split, classes)
    except OSError as e:
        raise DataError(f"{spec} cannot be read: {e}.") from e
    dataset.expect_objects()
    loud = dataset.mostly_lost()
    return replace(dataset, notes=(*loud, *dataset.notes)) if loud else dataset


def open_datasets(specs: Sequence[str], split: str = "train") -> Dataset:
    """Several data sets of the same classes as one, in their order; one alone as `open_dataset` opens it.

    Raises:
        DataError: a set has a class that the first has not, or another kind of truth. Else as `open_dataset`.
    """
    first = open_dataset(specs[0], split)
    found = [first]
    for spec in specs[1:]:
        other = open_dataset(spec, split)
        unknown = [name for name in other.classes if name not in first.classes]
        if unknown or (other.semantic, other.labelled) != (first.semantic, first.labelled):
            what = f"the class {unknown[0]!r}" if unknown else "another kind of truth"
            raise DataError(
                f"{other.name} has {what}, which {first.name} has not.",
                hint="Sets that are trained on together have the same classes.",
            )
        same = other.classes == first.classes
        found.append(other if same else open_dataset(spec, split, classes=first.classes))
    if len(found) == 1:
        return first
    problems = Problems()
    for problem in (p for data in found for p in data.problems.items):
        problems.take(problem)
    truths = [truth for data in found for truth in data.truths]
    notes = tuple(dict.fromkeys(note for data in found for note in data.notes))
    name = " + ".join(data.name for data in found)
    return Dataset(name, first.classes, truths, problems, notes=notes)


def _home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise DataError(f"{path} cannot be found: {e}.") from None


def _open(kind: str, path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    if kind == "voc":
        from edgedet.data.voc import open_voc

        return open_voc(path, split, classes=classes)
    if kind == "coco":
        from edgedet.data.coco import open_coco

        return open_coco(path, split, classes=classes)
    if kind == "yolo":
        from edgedet.data.yolo_txt import open_yolo

        return open_yolo(path, split, classes=classes)
    if kind == "voc-seg":
        from edgedet.data.voc import open_voc_masks

        return open_voc_masks(path, split, classes=classes)
    if kind == "masks":
        from edgedet.data.masks import open_masks

        return open_masks(path, split, classes=classes)
    if kind == "instances":
        from edgedet.data.instances import open_instances

        return open_instances(path, split, classes=classes)
    if kind == "folder":
        from edgedet.data.folder import open_folder

        return open_folder(path)
    raise UnknownName("data kind", kind, KINDS)
