"""Region proposals from outside the network: where objects may be, before anything is recognised.

A `Proposer` turns a picture into boxes in its pixels, the most promising first. R-CNN and Fast R-CNN look at
nothing else, in training, evaluation and at run time, so all three make them here, by what
`ModelSpec.proposals` says. `RegionInput` brings them into the form a graph takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import Array, namespace
from edgedet.contract.errors import EngineError, MissingDependency, SpecError, UnknownName
from edgedet.contract.files import remove_leftovers, write_atomic
from edgedet.contract.frames import Image, check_image
from edgedet.contract.preprocess import FrameTransform
from edgedet.contract.spec import ModelSpec, Proposals

Floats: TypeAlias = npt.NDArray[np.float32]


GOLDEN = (5**0.5 - 1) / 2
"""Whose multiples' fractions fill the interval from 0 to 1 evenly."""


class Proposer(Protocol):
    """What proposes regions. Any thread may call it; the same picture gives the same boxes."""

    def __call__(self, image: Image) -> Floats:
        """(H, W, 3) uint8 BGR -> (n, 4) float32 xyxy in its pixels, the most promising first; n may be 0.

        Raises ImageError: the image is of another type or shape.
        """

    def identity(self) -> str:
        """What its boxes depend on beside the picture; the same on every machine."""


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search (Uijlings et al. 2013; lecture, "Selective Search") by OpenCV's contrib module.

    The picture is over-segmented into superpixels (Felzenszwalb and Huttenlocher 2004), and neighbours are
    merged bottom-up, the most similar first, by colour, texture, size and fill; each region on the way is a
    proposal. Several ways of segmenting and merging are put together ("diversification", section 3.2): two
    colour spaces x two scales of superpixels x with and without colour, as the paper's "fast" mode. The order
    is the paper's (section 3.3): the largest regions are ranked first, and each rank is multiplied by a
    number from 0 to 1, so that small regions have their chance. Here that number is the golden ratio's
    sequence; OpenCV's own is drawn from a generator that nobody can seed.

    Args:
        side: pixels of the longer side that a picture is shrunk to; a smaller one stays as it is.
        scale: k of the finer over-segmentation, the coarser has twice that: larger, larger superpixels.
        smooth: sigma in pixels of the blur before segmentation.
        smallest: pixels of the shrunk picture that both sides of a box must have.
        most: boxes of a picture at most.
        seconds: time limit: when it is over, no other way is begun. 0: no limit, and then the same picture
            always gives the same boxes.

    Raises:
        SpecError: a value that cannot be meant. MissingDependency: OpenCV is built without contrib.
    """

    side: int = 320
    scale: int = 100
    smooth: float = 0.8
    smallest: int = 8
    most: int = 2000
    seconds: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.side, self.scale, self.smallest, self.most)
        if not all(type(n) is int and 0 < n <= 1 << 14 for n in counts):
            raise SpecError(f"Selective Search with {self}: its counts must be 1 to {1 << 14}.")
        if not all(type(n) in (int, float) and 0 <= n < 1 << 14 for n in (self.smooth, self.seconds)):
            raise SpecError(f"Selective Search with {self}: smooth and seconds must be 0 to {1 << 14}.")
        if not hasattr(cv2, "ximgproc"):
            raise MissingDependency("opencv-contrib-python-headless", extra="cpu", purpose="Selective Search")

    def __call__(self, image: Image) -> Floats:
        """See Proposer."""
        began = time.perf_counter()
        height, width = check_image(image).shape[:2]
        factor = min(1.0, self.side / max(height, width))
        # OpenCV's segmentation needs some pixels to blur
        small = (max(2, round(width * factor)), max(2, round(height * factor)))
        if small != (width, height):
            method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, small, interpolation=method), np.uint8)
        found: list[npt.NDArray[np.int32]] = []
        for space in (cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab):
            picture = np.asarray(cv2.cvtColor(image, space), np.uint8)
            for scale in (self.scale, 2 * self.scale):
                if self.seconds and time.perf_counter() - began > self.seconds and found:
                    break
                found.append(_merged(picture, scale, self.smooth))
        return self._ranked(np.concatenate(found)) * np.array(
            [width / small[0], height / small[1]] * 2, np.float32
        )

    def _ranked(self, found: npt.NDArray[np.int32]) -> Floats:
        """(n, 4) x, y, w, h, some of them several times -> xyxy, without the small ones, best first."""
        unique = np.unique(found, axis=0)  # sorted, so that the order is one
        x, y, w, h = unique[(unique[:, 2:] >= self.smallest).all(axis=1)].T
        largest = np.argsort(-w * h, kind="stable")
        place = np.arange(1, len(largest) + 1)
        order = largest[np.argsort(place * (place * GOLDEN % 1.0), kind="stable")][: self.most]
        return np.stack([x, y, x + w, y + h], axis=1)[order].astype(np.float32)

    def identity(self) -> str:
        """See Proposer."""
        return f"selective search 1 {json.dumps(asdict(self), sort_keys=True)}"


def _merged(picture: Image, scale: int, smooth: float) -> npt.NDArray[np.int32]:
    """The regions (n, 4) x, y, w, h of both ways of merging one over-segmentation of a picture."""
    search: Any = cv2.ximgproc.segmentation
    one = search.createSelectiveSearchSegmentation()
    one.setBaseImage(picture)
    one.addImage(picture)
    one.addGraphSegmentation(search.createGraphSegmentation(smooth, float(scale), 100))
    kinds = ("Fill", "Texture", "Size", "Color")
    for names in (kinds, kinds[:3]):
        parts = [getattr(search, f"createSelectiveSearchSegmentationStrategy{n}")() for n in names]
        one.addStrategy(search.createSelectiveSearchSegmentationStrategyMultiple(*parts))
    return np.asarray(one.process(), np.int32).reshape(-1, 4)


METHODS: dict[str, Callable[..., Proposer]] = {"selective_search": SelectiveSearch}
"""What `spec.Proposals.method` may name."""


def make_proposer(proposals: Proposals) -> Proposer:
    """The proposer that a spec names.

    Raises:
        UnknownName: no such method. SpecError: parameters it does not take.
    """
    if proposals.method not in METHODS:
        raise UnknownName("method of proposing regions", proposals.method, METHODS)
    try:
        return METHODS[proposals.method](**proposals.parameters)
    except TypeError as e:
        raise SpecError(
            f"{proposals.method} does not take {dict(proposals.parameters)!r:.200}: {e}."
        ) from None


class CachedProposer:
    """A proposer whose boxes are kept on disk, by the picture's pixels and what the boxes depend on.

    One .npy file a picture (numbers alone; nothing of it is ever run), whole or not there, so that any
    number of processes may share a folder. A file that is damaged counts as none.

    Args:
        proposer: asked for what is not there. folder: made where needed.
    """

    def __init__(self, proposer: Proposer, folder: Path) -> None:
        self.proposer = proposer
        self.folder = folder

    def __call__(self, image: Image) -> Floats:
        """See Proposer. Raises OutputError too: what was found cannot be written."""
        path = self.path(image)
        found = _read(path)
        if found is None:
            found = self.proposer(image)
            buffer = io.BytesIO()
            np.save(buffer, found, allow_pickle=False)
            write_atomic(path, buffer.getvalue())
        return found

    def path(self, image: Image) -> Path:
        """Where the boxes of this picture are kept."""
        digest = hashlib.sha256(f"{self.identity()} {check_image(image).shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def identity(self) -> str:
        """See Proposer."""
        return self.proposer.identity()


def cached(proposals: Proposals | None, folder: Path | None) -> Proposer | None:
    """The proposer that a spec names, with a cache in a folder where one is given; None where it names none.

    What killed processes left half-written in the folder is removed. Raises as `make_proposer`.
    """
    if proposals is None:
        return None
    proposer = make_proposer(proposals)
    if folder is None:
        return proposer
    with contextlib.suppress(OSError):  # it is not there yet
        remove_leftovers(folder, deep=True)
    return CachedProposer(proposer, folder)


def _read(path: Path) -> Floats | None:
    """The boxes of a file; None if there is none, or something else."""
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError):
        return None
    if found.dtype != np.float32 or found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        return None
    return found


class RegionInput:
    """Fills the tensor of role "proposals" that a graph takes beside the image, in one run or several.

    A row is a box in network pixels, inside the input; what is beyond `Proposals.count` is left out, and rows
    without a proposal are 0, 0, 0, 0. One instance serves one thread.

    Args:
        spec: with `proposals`. proposer: instead of the spec's own (one with a cache).

    Raises:
        As `make_proposer`. SpecError: the spec describes no proposals.
    """

    def __init__(self, spec: ModelSpec, proposer: Proposer | None = None) -> None:
        if spec.proposals is None:
            raise SpecError(f"{spec.model!r} takes no proposals.")
        self.name = next(t.name for t in spec.extra_inputs if t.role == "proposals")
        self._size = spec.input.size
        self._proposer = proposer or make_proposer(spec.proposals)

    def __call__(self, image: Image, transform: FrameTransform, out: Floats) -> int:
        """The proposals of a frame (H, W, 3) uint8 BGR -> `out` (P, 4), filled; how many rows hold one.

        Raises ImageError as the proposer. EngineError: it gives something else than boxes.
        """
        boxes = self._proposer(image)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise EngineError(f"The proposals are {boxes.shape}, expected (n, 4).")
        height, width = self._size
        moved = transform.to_network(boxes[: len(out)])
        out[:] = 0
        out[: len(moved)] = moved.clip(0, np.array([width, height] * 2, np.float32))
        return len(moved)


def runs(boxes: Floats, rows: int) -> list[slice]:
    """Which rows of (N, count, 4) each run of a graph gets that takes `rows` of them (`Proposals.rows`).

    They are filled from the front. Runs in which no image has a box are left out, but for the first.
    """
    filled = np.flatnonzero((boxes[..., 2:] > boxes[..., :2]).all(axis=-1).any(axis=0))
    end = int(filled[-1]) + 1 if len(filled) else 1
    return [slice(first, first + rows) for first in range(0, end, rows)]


def in_runs(infer: Callable[[slice], Mapping[str, Array]], boxes: Floats, rows: int) -> dict[str, Array]:
    """What a graph says of all boxes (N, count, 4): the tensors of its runs, one behind the other (axis 1).

    There are as many rows as the runs have together: not those that are left out.

    Args:
        infer: these rows of the boxes -> tensors (N, rows, ...), of numpy or torch, by name.
    """
    parts = [infer(run) for run in runs(boxes, rows)]
    if len(parts) == 1:
        return dict(parts[0])
    return {
        name: namespace(one).concatenate([part[name] for part in parts], axis=1)
        for name, one in parts[0].items()
    }
