"""A data set: labels parsed and checked up front, pixels read when asked for."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import DataError, EmptyDataset, ImageError, MaskError
from edgedet.contract.image_files import image_size, may_have, read_image
from edgedet.contract.proposals import Proposer
from edgedet.data.clean import BROKEN_IMAGE, CORRECTED, LOST_IMAGES, LOST_OBJECTS, MASK_SIZE, NO_LABELS
from edgedet.data.sample import Problems, Sample, Truth


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their truth.

    name: what the data is called in reports and provenance ("voc:VOC2007 train"), without the path of
    this machine; labelled: whether the truths were given at all; notes: what a reader of figures
    measured on it must know. Needs no torch.
    """

    name: str
    classes: tuple[str, ...]
    truths: list[Truth]
    problems: Problems = field(default_factory=Problems)
    labelled: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = next((c for c, n in Counter(self.classes).items() if n > 1), None)
        if twice is not None:
            raise DataError(f"{self.name} has two classes called {twice!r}.", hint="Name each class once.")
        if not self.truths:
            raise EmptyDataset(
                f"{self.name} has no usable image{self._why()}", hint="Check the path and its labels."
            )

    def expect_objects(self) -> None:
        """EmptyDataset, with the reason, where there are labels of boxes but not one object in them.

        DataError where the boxes can only be fractions of their images.
        """
        if self.labelled and not self.semantic and not any(len(t.boxes) for t in self.truths):
            images = "image" if len(self) == 1 else "images"
            raise EmptyDataset(
                f"{self.name} has no object in {len(self)} {images}{self._why()}",
                hint="Check its labels; folder:PATH takes images without labels.",
            )
        if self.labelled and not self.semantic and all((t.boxes <= 1).all() for t in self.truths):
            raise DataError(
                f"All {self._boxes()} boxes of {self.name} lie in the first pixel of their images: they seem "
                "to be fractions of the image, expected pixels.",
                hint="Multiply them by the image's width and height; labels in fractions are yolo: data.",
            )

    def _why(self) -> str:
        """What was wrong, to end a sentence."""
        if not len(self.problems):
            return "."
        return f" ({self.problems.summary()}). First problem: {self.problems.items[0]}."

    def part(self, indices: Sequence[int]) -> Dataset:
        """Some of its images, with what was wrong with those alone; it keeps the name.

        What is noted of them later is known to both.
        """
        if len(indices) == len(self):
            return self
        truths = [self.truths[i] for i in indices]
        images = {t.path for t in truths}
        loud = self.mostly_lost()
        found = replace(self, truths=truths, problems=self.problems.only(lambda p: p.image in images))
        notes = tuple(note for note in self.notes if note not in loud)
        return replace(found, notes=(*found.mostly_lost(), *notes))

    def summary(self) -> str:
        """What was found, on one line: images, objects by class, ignored ones; and what was left out."""
        parts = [f"{len(self)} images"]
        if self.labelled and not self.semantic:
            labels = np.concatenate([t.labels for t in self.truths])
            counts = np.bincount(labels, minlength=len(self.classes))
            each = ", ".join(f"{name} {count}" for name, count in zip(self.classes, counts, strict=True))
            parts.append(f"{len(labels)} objects ({each})")
            ignored = sum(int(t.ignore.sum()) for t in self.truths)
            parts += [f"{ignored} of them ignored"] if ignored else []
        left = self.left_out()
        return f"{self.name}: {', '.join(parts)}" + (f"; {left}" if left else "")

    def left_out(self) -> str:
        """What was left out of the data, and why, as known so far; '' if nothing.

        "left out: 2 missing image, 40 of 60 objects (38 unknown class, 2 zero area); the first: ...", after
        what `mostly_lost` says. Looks at the images' headers; images are decoded when they are asked for, so
        those that are broken inside are known only then.
        """
        self._look()
        lost = [p for p in self.problems.items if p.kind not in CORRECTED]
        if not lost:
            return ""
        counts = Counter(p.kind for p in lost)
        parts = [f"{n} {kind}" for kind, n in counts.most_common() if kind not in LOST_OBJECTS]
        objects = ", ".join(f"{n} {kind}" for kind, n in counts.most_common() if kind in LOST_OBJECTS)
        if objects:
            gone = self._count(LOST_OBJECTS)
            parts.append(f"{gone} of {gone + self._boxes()} objects ({objects})")
        return "; ".join([*self.mostly_lost(), f"left out: {', '.join(parts)}", f"the first: {lost[0]}"])

    def _look(self) -> None:
        """Note the images whose headers say that `load` will refuse them."""
        for index, truth in enumerate(self.truths):
            if truth.size is not None and not may_have(truth.path, truth.size):
                with contextlib.suppress(ImageError):  # `image` notes it, in the words of `load`
                    self.image(index)

    def mostly_lost(self) -> tuple[str, ...]:
        """What is to be said loudly: more than half of the images, labels or objects are not there."""
        found = []
        images, labels, objects = (self._count(k) for k in (LOST_IMAGES, {NO_LABELS}, LOST_OBJECTS))
        if images > len(self):
            found.append(f"IMAGES LOST: {images} of {images + len(self)} images were left out")
        if 2 * labels > len(self):
            first = next(p for p in self.problems.items if p.kind == NO_LABELS)
            found.append(
                f"LABELS MISSING: {labels} of {len(self)} images have no label file ({first.detail})"
            )
        if objects > self._boxes():
            found.append(f"OBJECTS LOST: {objects} of {objects + self._boxes()} objects were left out")
        return tuple(found)

    def _count(self, kinds: Collection[str]) -> int:
        """How many problems are of these kinds."""
        return sum(p.kind in kinds for p in self.problems.items)

    def _boxes(self) -> int:
        return sum(len(t.boxes) for t in self.truths)

    def __len__(self) -> int:
        return len(self.truths)

    def load(self, index: int, *, masks: bool = False, proposer: Proposer | None = None) -> Sample:
        """Image `index` with its truth; the image is (H, W, 3) uint8 RGB.

        masks: with its instance masks. proposer: with its proposals, of the image as `image` gives it.

        Raises:
            ImageError: the image is absent, truncated or of another size than its labels; also noted in
                `problems`, once. MaskError: as `class_map` raises it.
        """
        truth = self.truths[index]
        read = self.image(index)
        image = np.asarray(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), np.uint8)
        classes = None if truth.class_map is None else self._class_map(index, image.shape[:2])
        planes = self._masks_of(index, image.shape[:2]) if masks else None
        regions = proposer(read) if proposer is not None else None
        return Sample(truth.id, image, truth.boxes, truth.labels, truth.ignore, classes, planes, regions)

    def _masks_of(self, index: int, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """The instance masks, of the image's size; MaskError otherwise."""
        planes = self.masks(index)
        if planes.shape[1:] != size:
            problem = MaskError(
                self.truths[index].path,
                MASK_SIZE,
                f"its masks are {planes.shape[2]}x{planes.shape[1]}, it is {size[1]}x{size[0]}",
                hint="Export the masks at their image's size.",
            )
            self._note(index, problem)
            raise problem
        return planes

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Image `index` as (H, W, 3) uint8 BGR, what a camera would give. Raises as `load`."""
        truth = self.truths[index]
        try:
            return read_image(truth.path, size=truth.size)
        except ImageError as e:
            self._note(index, e)
            raise

    def _note(self, index: int, error: ImageError | MaskError) -> None:
        """Note why image `index` or its mask cannot be used."""
        image = self.truths[index].path
        if isinstance(error, MaskError):
            self.problems.add(error.file, error.kind, error.detail, image=image)
        else:
            self.problems.add(image, BROKEN_IMAGE, error.message, image=image)

    def masks(self, index: int) -> npt.NDArray[np.bool_]:
        """The instance masks of image `index`: (n, H, W) bool, one for each of its boxes.

        Raises:
            DataError: the data set has no instance masks, or one that cannot be. ImageError: the image is
                absent, or of another size than they are for.
        """
        truth = self.truths[index]
        if truth.masks is None:
            raise DataError(f"{self.name} has no instance masks for {truth.path.name}.")
        # what the labels claim may be any size
        if truth.size is not None and sorted(image_size(truth.path)) != sorted(truth.size):
            self.image(index)
        return truth.masks.read()

    @property
    def semantic(self) -> bool:
        """Whether the truth is a class per pixel (it then has no boxes)."""
        return any(t.class_map is not None for t in self.truths)

    def class_map(self, index: int) -> npt.NDArray[np.uint8]:
        """The class of each pixel of image `index`: (H, W) uint8, an index into `classes`, or `VOID`.

        Raises:
            DataError: the data set has none. ImageError: the image is not there to compare sizes with.
            MaskError: the mask cannot be read, is of another size than its image, holds a label that is
                no class, is a picture of colours instead of labels, or is void all over; also noted in
                `problems`, once.
        """
        truth = self.truths[index]
        if truth.class_map is None:
            raise DataError(f"{self.name} has no class map for {truth.path.name}.")
        try:
            size = image_size(truth.path)
        except ImageError as e:
            self._note(index, e)
            raise
        return self._class_map(index, size)

    def _class_map(self, index: int, size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        source = self.truths[index].class_map
        assert source is not None
        height, width = size
        try:
            return source.read((height, width))
        except MaskError as e:
            self._note(index, e)
            raise

    def fingerprint(self) -> str:
        """sha256 (hex) of classes, image names and labels, in order; the images' pixels are not read.

        Masks of classes and of objects are labels: their files' names and bytes are covered, and what their
        values mean; of those that stand in the labels (COCO's), what stands there.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for truth in self.truths:
            digest.update(json.dumps([truth.path.name, len(truth.boxes)]).encode())
            for array, dtype in ((truth.boxes, "<f4"), (truth.labels, "<i8"), (truth.ignore, "?")):
                digest.update(np.ascontiguousarray(array, dtype).tobytes())
            for source in (truth.class_map, truth.masks):
                if source is not None:
                    digest.update(source.identity().encode())
        return digest.hexdigest()


def existing(path: Path, kind: str) -> Path:
    """The path, or DataError with the closest name in its folder."""
    if path.exists():
        return path
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    missing = path.relative_to(parent).parts[0]
    close = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    hint = (
        f"Did you mean {parent / close[0]}?" if close else f"{parent} is the last folder of it that exists."
    )
    raise DataError(f"{kind}:{path} does not exist.", hint=hint)
