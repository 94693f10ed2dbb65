"""Large frames in tiles: each at the frame's own resolution, together one class map.

A semantic network sees what lies in its input; a frame larger than that would be shrunk to it, and small
things would vanish. Tiles show the network every pixel. Near a tile's edge its context is cut off, so tiles
overlap, and every pixel takes its class from the tile in whose interior it lies deepest. (Nothing is blended:
a class map has taken its argmax already.)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

import numpy as np

from edgedet.contract.errors import EdgedetError, EngineError, UsageError
from edgedet.contract.frames import Frame, Image
from edgedet.contract.results import Result, SegmentationMap
from edgedet.runtime.predictor import CpuPredictor, CpuTicket, Ticket
from edgedet.runtime.slots import Slots

OVERLAP = 0.25
"""Share of a tile that it has in common with the next one, at least."""

MAX_OVERLAP = 0.75


@dataclass(frozen=True)
class Tile:
    """A part of a frame: `area` (rows, columns) is what the network sees, `keep` what is taken of it.

    Both in frame pixels. The `keep` of all tiles cover the frame, each pixel once.
    """

    area: tuple[slice, slice]
    keep: tuple[slice, slice]

    @property
    def kept(self) -> tuple[slice, slice]:
        """`keep` in pixels of the tile."""
        rows, cols = (
            slice(k.start - a.start, k.stop - a.start) for a, k in zip(self.area, self.keep, strict=True)
        )
        return rows, cols


def tiling(frame: tuple[int, int], network: tuple[int, int], overlap: float = OVERLAP) -> list[Tile]:
    """Tiles of one size over a frame, row by row.

    A tile has the network's own size, or its shape as large as fits where the frame is smaller. There are as
    few as overlap by `overlap` or more, evenly spread.

    Args:
        frame: (height, width). network: (height, width) of its input. overlap: share of a tile.
    """
    scale = min(1.0, frame[0] / network[0], frame[1] / network[1])
    rows, cols = (
        _spans(length, min(length, max(1, round(side * scale))), overlap)
        for length, side in zip(frame, network, strict=True)
    )
    return [Tile((ra, ca), (rk, ck)) for ra, rk in rows for ca, ck in cols]


def _spans(length: int, tile: int, overlap: float) -> list[tuple[slice, slice]]:
    """Along one axis: (area, keep) of each tile.

    A pixel's depth in a tile is its distance to the nearest edge that is not the frame's own. Of two
    neighbours the deeper one changes in the middle of their overlap. In two dimensions a pixel's depth is the
    smaller of its depths along the axes, so the deepest tile of each axis gives the deepest of all.
    """
    step = max(1.0, tile * (1 - overlap))
    count = 1 + math.ceil((length - tile) / step - 1e-9)
    starts = [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]
    borders = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), length]
    return [
        (slice(start, start + tile), slice(*keep))
        for start, *keep in zip(starts, borders, borders[1:], strict=False)
    ]


class TiledPredictor:
    """A Predictor (edgedet.runtime.predictor) that shows another one each frame tile by tile.

    One frame is under way at a time: its tiles keep the engine busy, as many in flight as the inner
    predictor allows, so most of the work is done before `submit` returns. A ticket's times are sums over the
    tiles.

    Args:
        predictor: for a semantic model; closed with this one.
        overlap: share of a tile, 0 to 0.75.

    Raises:
        UsageError: the model gives no class map, or `overlap` is out of range.
    """

    in_flight = 1
    batch = 1

    def __init__(self, predictor: CpuPredictor, *, overlap: float = OVERLAP) -> None:
        spec = predictor.spec
        if spec.task != "semantic":
            raise UsageError(
                f"Tiles need a semantic model; {spec.model!r} is a model for {spec.task}.",
                hint="Boxes cut in two cannot be put together: run it on whole frames.",
            )
        if not 0 <= overlap <= MAX_OVERLAP:
            raise UsageError(f"Tiles cannot overlap by {overlap:g}.", hint=f"Give 0 to {MAX_OVERLAP:g}.")
        self.predictor = predictor
        self.spec = spec
        self.name = f"{predictor.name}, tiles"
        self.stages = predictor.stages
        self.streams = predictor.streams
        self.overlap = overlap
        self._tiling: tuple[tuple[int, int], list[Tile]] = ((0, 0), [])
        self._slots = Slots(["frame"])

    def reserve(self) -> str:
        """See Predictor."""
        self._check_process()
        return self._slots.take(self.predictor.timeout * max(1, len(self._tiling[1])))

    def release(self, slot: str) -> None:
        """See Predictor."""
        self._check_process()
        self._slots.release(slot)

    def submit(self, frames: Sequence[Frame], slot: str | None = None) -> TiledTicket:
        """See Predictor: one frame at a time."""
        slot = slot or self.reserve()
        self._check_process()
        self._slots.use(slot)
        ticket = TiledTicket(self, slot)
        try:
            if len(frames) != 1:
                raise EngineError(f"Got {len(frames)} frames at once, expected 1.")
            (frame,) = frames
            height, width = frame.size
            ticket.classes = np.empty((height, width), np.uint8)
            tiles, batch = self._tiles_of((height, width)), self.predictor.batch
            for first in range(0, len(tiles), batch):
                some = tiles[first : first + batch]
                if len(ticket.pending) == self.predictor.in_flight:
                    self._finish_one(ticket)
                parts = [Frame(frame.image[t.area], frame.index, frame.captured, frame.source) for t in some]
                ticket.pending.append((self.predictor.submit(parts), some))
        except BaseException:
            self._abandon(ticket)
            raise
        return ticket

    def collect(self, ticket: TiledTicket) -> list[Result]:
        """See Predictor."""
        self._check_process()
        ticket.claim(self)
        try:
            while ticket.pending:
                self._finish_one(ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        self._slots.give(ticket.slot)
        return [SegmentationMap(ticket.classes)]

    def _tiles_of(self, size: tuple[int, int]) -> list[Tile]:
        known, tiles = self._tiling
        if size != known:
            tiles = tiling(size, self.spec.input.size, self.overlap)
            self._tiling = (size, tiles)
        return tiles

    def _finish_one(self, ticket: TiledTicket) -> None:
        """Wait for the tiles that were started first, and put their classes where they belong."""
        inner, tiles = ticket.pending.popleft()
        results = self.predictor.collect(inner)
        started = time.perf_counter()
        for tile, result in zip(tiles, results, strict=True):
            assert isinstance(result, SegmentationMap)
            ticket.classes[tile.keep] = result.classes[tile.kept]
        for stage, seconds in inner.times.items():
            ticket.times[stage] += seconds
        ticket.times["postprocess"] += time.perf_counter() - started

    def _abandon(self, ticket: TiledTicket) -> None:
        """After a failure: engines write into buffers until their tickets are collected."""
        try:
            while ticket.pending:
                with suppress(EdgedetError):  # the first failure is the one that is raised
                    self.predictor.collect(ticket.pending.popleft()[0])
        finally:
            self._slots.give(ticket.slot)

    def __call__(self, image: Image) -> Result:
        """One image (H, W, 3) uint8 BGR -> its result."""
        return self.collect(self.submit([Frame(image)]))[0]

    def close(self) -> None:
        """See Predictor."""
        with suppress(EngineError):
            self._check_process()
            self._slots.end(EngineError(f"The predictor of {self.spec.model!r} ({self.name}) is closed."))
            self.predictor.close()

    def _check_process(self) -> None:
        self._slots.check_process(f"The predictor of {self.spec.model!r}")

    def __enter__(self) -> TiledPredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TiledTicket(Ticket):
    """A frame's class map being filled, and the tiles that are still under way, in their order."""

    def __init__(self, predictor: TiledPredictor, slot: str) -> None:
        super().__init__(predictor)
        self.slot = slot
        self.classes = np.empty((0, 0), np.uint8)
        self.pending: deque[tuple[CpuTicket, list[Tile]]] = deque()
