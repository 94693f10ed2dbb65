"""The images of a data set that hold exactly one object: what localisation is trained and measured on."""

from __future__ import annotations

from dataclasses import replace

from edgedet.contract.errors import EmptyDataset
from edgedet.data.dataset import Dataset


def with_one_object(data: Dataset) -> Dataset:
    """Of a data set with boxes: the images with exactly one, and that one to be found (not "ignored").

    The result's notes say how many images that leaves out, if any.

    Raises:
        EmptyDataset: no image has exactly one object.
    """
    kept = [t for t in data.truths if len(t.boxes) == 1 and not t.ignore[0]]
    left = len(data) - len(kept)
    if not left:
        return data
    if not kept:
        raise EmptyDataset(
            f"{data.name} has {len(data)} images, none with exactly one object.",
            hint="Localisation says one box an image; for several objects take a detector (--model yolo).",
        )
    empty = sum(not len(t.boxes) for t in data.truths)
    note = (
        f"{data.name}: {left} of {len(data)} images left out, because they have not exactly one object to be"
        f" found ({empty} have none)"
    )
    others = {t.path for t in data.truths} - {t.path for t in kept}
    problems = data.problems.only(lambda p: p.image not in others)
    return replace(data, truths=kept, problems=problems, notes=(*data.notes, note))
