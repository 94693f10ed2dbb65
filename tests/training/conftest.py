"""Small data sets: photographs are not needed to see whether a loop repeats itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

XML = """<annotation><filename>{name}.jpg</filename>
<size><width>96</width><height>72</height><depth>3</depth></size>
<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>
<ymax>{y1}</ymax></bndbox></object></annotation>"""


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC2007 laid out as VOC: 12 images of a bright cat or a dark dog on noise, 8 train, 4 val."""
    root = tmp_path_factory.mktemp("data") / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:06d}" for i in range(12)]
    for i, name in enumerate(names):
        image = rng.integers(90, 160, (72, 96, 3), np.uint8)
        x, y = int(rng.integers(4, 40)), int(rng.integers(4, 30))
        image[y : y + 36, x : x + 40] = 230 if i % 2 else 20
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
        label = "cat" if i % 2 else "dog"
        text = XML.format(name=name, label=label, x0=x + 1, y0=y + 1, x1=x + 40, y1=y + 36)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names[:8]) + "\n")
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names[8:]) + "\n")
    return root


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Six images, each of one grey, with a mask of its number."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), np.full((20, 30), i, np.uint8))
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\n")
    return tmp_path
