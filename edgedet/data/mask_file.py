"""One mask file as a class map, checked: size, labels, and that it is no picture of colours."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import ImageError, MaskError
from edgedet.contract.image_files import MAX_BYTES, list_images, read_stored
from edgedet.contract.reading import read_bytes
from edgedet.contract.spec import VOID
from edgedet.data import clean
from edgedet.data.clean import BoxList
from edgedet.data.mask_labels import Labels
from edgedet.data.sample import Problems, Truth

LOSSY = (".jpg", ".jpeg")

SMOOTH = 4
"""So many different values between two labels that are no labels look like smoothed borders."""


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A file with one label per pixel (`edgedet.data.sample.ClassMapSource`); image: whose mask it is."""

    path: Path
    image: Path
    labels: Labels

    def read(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """(H, W) uint8: see `ClassMapSource`."""
        stored = self._stored()
        if stored.shape != size:
            got, want = f"{stored.shape[1]}x{stored.shape[0]}", f"{size[1]}x{size[0]}"
            raise MaskError(
                self.path,
                clean.MASK_SIZE,
                f"it is {got}, but its image {self.image.name} is {want}",
                hint="Export the mask at its image's size (resize masks with nearest neighbours only).",
            )
        counts = np.bincount(stored.reshape(-1), minlength=len(self.labels.table))
        table = np.append(self.labels.table, np.full(len(counts) - len(self.labels.table), -1, np.int16))
        wrong = np.flatnonzero((counts > 0) & (table < 0))
        if len(wrong):
            y, x = np.argwhere(stored == wrong[0])[0]
            shown = ", ".join(str(v) for v in wrong[:8]) + (", ..." if len(wrong) > 8 else "")
            raise MaskError(
                self.path,
                clean.UNKNOWN_LABEL,
                f"{counts[wrong].sum()} pixels hold {shown} (the first at x {x}, y {y}), expected "
                f"{self.labels.values()}",
                hint=_of_values(counts, wrong, self.labels),
            )
        if not counts[table != VOID].any():
            raise MaskError(
                self.path,
                clean.ALL_VOID,
                f"it says nothing of any of its {stored.size} pixels",
                hint="Label something in it, or take the image out of the data set.",
            )
        return table[stored].astype(np.uint8)

    def _stored(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """The labels as stored, (H, W)."""
        try:
            stored = read_stored(self.path)
        except ImageError as e:
            raise MaskError(self.path, clean.BROKEN_MASK, e.message.rstrip("."), hint=e.hint) from None
        if self.path.suffix.lower() in LOSSY:
            raise MaskError(
                self.path,
                clean.COLOUR_MASK,
                "it is a JPEG, which changes labels when it compresses",
                hint="Export the masks again, as PNG files of one channel.",
            )
        if stored.ndim == 3:
            detail, hint = _of_colours(stored)
            raise MaskError(self.path, clean.COLOUR_MASK, detail, hint=hint)
        if stored.dtype not in (np.uint8, np.uint16):
            raise MaskError(
                self.path,
                clean.BROKEN_MASK,
                f"its pixels are {stored.dtype}, expected 8-bit labels",
                hint="Save the labels as 8-bit grey PNG.",
            )
        return stored

    def identity(self) -> str:
        """Name and bytes of the file, and what its values mean; the name alone if it cannot be read."""
        return file_identity(self.path, np.ascontiguousarray(self.labels.table, "<i2").tobytes())


def file_identity(path: Path, meaning: bytes) -> str:
    """sha256 (hex) of a mask file's name, what its values mean, and its bytes where they can be read."""
    digest = hashlib.sha256(os.fsencode(path.name))
    digest.update(meaning)
    with contextlib.suppress(OSError):  # said when it is read
        digest.update(read_bytes(path, MAX_BYTES))
    return digest.hexdigest()


def class_map_truths(
    stems: Iterable[str],
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    labels: Labels,
    problems: Problems,
    *,
    listed_in: Path,
) -> list[Truth]:
    """A truth for each of `stems` that has an image and a mask (of the same stem, or stem + "_mask").

    What lacks one is noted in `problems`, an image that is not there under `listed_in`.
    """
    truths = []
    for stem in stems:
        image, mask, other = images.get(stem), masks.get(stem), masks.get(f"{stem}_mask")
        if mask is not None and other is not None and f"{stem}_mask" not in images:
            problems.add(other, clean.DUPLICATE, f"{mask.name} is used instead", image=image)
        mask = mask or other
        if image is None:
            problems.add(listed_in, clean.MISSING_IMAGE, f"there is no image {stem}")
        elif mask is None:
            problems.add(image, clean.NO_MASK, f"no mask is called {stem} or {stem}_mask; left out")
        else:
            boxes = BoxList(image, image, None, problems)
            truths.append(boxes.truth(class_map=MaskFile(mask, image, labels)))
    return truths


def by_stem(folder: Path, problems: Problems) -> dict[str, Path]:
    """The image files directly in a folder by their names without ending; the second of a name is noted."""
    found: dict[str, Path] = {}
    for file in list_images(folder):
        if found.setdefault(file.stem, file) != file:
            problems.add(file, clean.DUPLICATE, f"{found[file.stem].name} is used instead")
    return found


def _of_values(counts: npt.NDArray[np.int64], wrong: npt.NDArray[np.int64], labels: Labels) -> str:
    """What to do about values that are no labels."""
    known = np.flatnonzero(counts[: len(labels.table)] * (labels.table >= 0))
    if len(wrong) >= SMOOTH and len(known) and known[0] < wrong[0] and wrong[-1] < known[-1]:
        return (
            "So many values between two labels are borders that were smoothed (drawn with anti-aliasing, or "
            "resized with interpolation): export the masks without that, or make them sharp again, for two "
            "classes by cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)."
        )
    return "Give every value a name in classes.txt (a line each, from 0 on), or call it void there."


def _of_colours(stored: npt.NDArray[np.generic]) -> tuple[str, str]:
    """What a mask of several channels seems to be, and (as the hint) how to make labels of it."""
    colours = stored[..., :3]
    if (colours == colours[..., :1]).all():
        return (
            f"it has {stored.shape[2]} equal channels, expected one of labels",
            "Keep one channel: cv2.imwrite(mask, cv2.imread(mask)[..., 0]).",
        )
    different = len(np.unique(colours.reshape(-1, colours.shape[2]), axis=0))
    return (
        f"it has {stored.shape[2]} channels with {different} different colours, expected one channel of "
        "labels (a palette mask that was read as RGB and saved again looks like this)",
        "Use the palette file itself, or replace each colour by its class's number and save 8-bit grey PNG.",
    )
