"""How much of an MP4's recorded time its edit list shows (ISO 14496-12, boxes mvhd, mdhd, elst)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path


def visible_share(path: Path) -> float:
    """The share of the video track's media that is shown: less than 1 for a trimmed video.

    1 where the file has no edit list or cannot be understood.
    """
    try:
        moov = _movie_box(path)
        timescale, _ = _times(_find(moov, b"mvhd"))
        for kind, trak in _boxes(moov):
            if kind != b"trak":
                continue
            mdia = _find(trak, b"mdia")
            if _find(mdia, b"hdlr")[8:12] != b"vide":
                continue
            media_timescale, media_duration = _times(_find(mdia, b"mdhd"))
            shown = _edited(_find(_find(trak, b"edts"), b"elst")) / timescale
            # half a frame of 100 FPS: durations are rounded to the movie's own, coarser time scale
            recorded = media_duration / media_timescale - 0.005
            return min(1.0, shown / recorded) if shown > 0 and recorded > 0 else 1.0
    except (KeyError, ValueError, ZeroDivisionError, struct.error):
        pass
    return 1.0


def _movie_box(path: Path) -> bytes:
    with path.open("rb") as f:
        while header := f.read(8):
            size, kind = struct.unpack(">I4s", header)
            payload = size - 8
            if size == 1:  # a 64-bit size follows
                payload = int.from_bytes(f.read(8), "big") - 16
            if kind == b"moov":
                return f.read(payload)
            if payload < 0:  # up to the end of the file
                break
            f.seek(payload, 1)
    raise KeyError(b"moov")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _find(data: bytes, kind: bytes) -> bytes:
    return next((payload for k, payload in _boxes(data) if k == kind), None) or _missing(kind)


def _missing(kind: bytes) -> bytes:
    raise KeyError(kind)


def _times(box: bytes) -> tuple[int, int]:
    """(time scale, duration) of an mvhd or mdhd."""
    layout = ">IQ" if box[0] == 1 else ">II"
    timescale, duration = struct.unpack_from(layout, box, 20 if box[0] == 1 else 12)
    return int(timescale), int(duration)


def _edited(box: bytes) -> int:
    """The movie time that an elst shows, its empty edits left out."""
    layout = ">Qqi" if box[0] == 1 else ">Iii"
    (count,) = struct.unpack_from(">I", box, 4)
    step = struct.calcsize(layout)
    entries = [struct.unpack_from(layout, box, 8 + i * step) for i in range(count)]
    return sum(int(duration) for duration, media_time, _ in entries if media_time >= 0)
