"""COCO's instance masks: polygons and run lengths (cocodataset.org; pycocotools' maskApi.c).

Run lengths are decoded here, after checking that they fill the image exactly: the library's C code
trusts them and would write or allocate without limit. Polygons are rasterised by faster-coco-eval, which
keeps COCO's own rule for the pixels on the edge.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import AnnotationError, MissingDependency
from edgedet.data.clean import real, short

Polygons: TypeAlias = list[npt.NDArray[np.float64]]
Runs: TypeAlias = dict[str, Any]


def segmentation(raw: object) -> Polygons | Runs | None:
    """An annotation's `segmentation`, polygons as arrays of x, y, x, y, ...; None if it is neither."""
    if isinstance(raw, dict):
        return raw if isinstance(raw.get("counts"), (list, str)) else None
    if not isinstance(raw, list) or not raw:
        return None
    if not all(isinstance(p, list) and len(p) >= 6 and all(real(v) for v in p) for p in raw):
        return None
    return [np.asarray(p[: len(p) // 2 * 2], np.float64) for p in raw]


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """The segmentations of one image; image: its file name and file: the JSON, for errors; size: (H, W)."""

    segmentations: tuple[Polygons | Runs, ...]
    size: tuple[int, int]
    file: Path
    image: str

    def read(self) -> npt.NDArray[np.bool_]:
        """(n, H, W) bool, in the order of the boxes.

        Raises:
            MissingDependency: faster-coco-eval is not installed. AnnotationError: not a segmentation of
                an image of this size.
        """
        planes = np.zeros((len(self.segmentations), *self.size), bool)
        for plane, one in zip(planes, self.segmentations, strict=True):
            problem = self._fill(plane, one)
            if problem:
                raise AnnotationError(self.file, 0, f"a segmentation of {self.image} {problem}")
        return planes

    def identity(self) -> str:
        """The segmentations themselves."""
        digest = hashlib.sha256(json.dumps(self.size).encode())
        for one in self.segmentations:
            if isinstance(one, dict):
                digest.update(json.dumps(one, sort_keys=True).encode())
                continue
            digest.update(json.dumps([len(polygon) for polygon in one]).encode())
            for polygon in one:
                digest.update(np.ascontiguousarray(polygon, "<f8").tobytes())
        return digest.hexdigest()

    def _fill(self, plane: npt.NDArray[np.bool_], one: Polygons | Runs) -> str:
        """Write one mask; returns what is wrong with it, empty if nothing is."""
        height, width = self.size
        if isinstance(one, list):
            # COCO's rasteriser walks along every edge: a far point would take it for ever
            if any((np.abs(p) > 4 * max(self.size)).any() for p in one):
                return f"lies far outside the image of {width}x{height}"
            plane[:] = _rasterise(one, height, width)
            return ""
        counts = one["counts"]
        runs = _uncompressed(counts) if isinstance(counts, str) else counts
        if one.get("size") != [height, width]:
            return f"is for (height, width) {short(one.get('size'))}, the image has {[height, width]}"
        whole = all(isinstance(r, int) and not isinstance(r, bool) and r >= 0 for r in runs)
        if not whole or sum(runs) != height * width:
            return f"does not fill the image of {width}x{height} with its run lengths"
        # runs of 0 and 1 in turn, down the columns
        values = np.arange(len(runs)) % 2 == 1
        plane[:] = np.repeat(values, runs).reshape(width, height).T
        return ""


def _rasterise(polygons: Polygons, height: int, width: int) -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise MissingDependency("faster-coco-eval", extra="train", purpose="Reading COCO polygons") from None
    return mask.decode(mask.merge(mask.frPyObjects([p.tolist() for p in polygons], height, width)))


def _uncompressed(text: str) -> list[int]:
    """COCO's packed run lengths: 5 bits a character, runs 4, 5, ... as difference to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if shift > 60:  # no run is so long; whole numbers without limit would take for ever
            return []
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more of this number follows
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
