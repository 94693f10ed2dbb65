"""Small real data sets on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


def write_image(path: Path, width: int = 64, height: int = 48) -> Path:
    """A picture that is not flat, so that a decoder has something to get wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def image() -> Callable[..., Path]:
    return write_image


def voc_object(name: str, *box: object, difficult: int = 0) -> str:
    """One <object> on lines of its own; the box stands on its third line."""
    x0, y0, x1, y1 = box
    return (
        f"<object>\n<name>{name}</name>\n"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>\n"
        f"<difficult>{difficult}</difficult>\n</object>\n"
    )


class VocFolder:
    """Writes a VOC data set: `add` an image with its objects, then open `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "Annotations").mkdir(parents=True)
        (root / "JPEGImages").mkdir()
        (root / "ImageSets" / "Main").mkdir(parents=True)

    def add(self, name: str, *objects: str, split: str = "train", size: str | None = None) -> Path:
        write_image(self.root / "JPEGImages" / f"{name}.jpg")
        known = "<size><width>64</width><height>48</height></size>" if size is None else size
        xml = f"<annotation>\n{known}\n{''.join(objects)}</annotation>\n"
        return self.annotate(name, xml, split=split)

    def annotate(self, name: str, xml: str, *, split: str = "train") -> Path:
        file = self.root / "Annotations" / f"{name}.xml"
        file.write_text(xml)
        with (self.root / "ImageSets" / "Main" / f"{split}.txt").open("a") as f:
            f.write(f"{name}\n")
        return file


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    return VocFolder(tmp_path / "VOCdevkit" / "VOC2007")


@pytest.fixture
def obj() -> Callable[..., str]:
    return voc_object
