"""What a video file's container says of itself: whether the file is whole, and how much of it is shown.

FFmpeg does not tell a truncated file from one that ends. MP4 and MOV (ISO 14496-12) are a row of boxes with
their sizes, AVI a RIFF with its size, Matroska and WebM a segment with its size (RFC 8794), where the writer
came to its end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_SEGMENT = b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot", b"uuid", b"sidx")


def missing_bytes(path: Path) -> int:
    """How many bytes of a video file are missing by its container's own account; 0 where it does not say."""
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(4096)
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        (announced,) = struct.unpack_from("<I", head, 4)
        # 0 or 2^32 - 1: the writer did not come to its end, or is a pipe
        end = announced + 8 if 0 < announced < 0xFFFFFFFF else 0
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        end = _segment_end(head)
    elif head[:3] == b"GIF":
        end = size + 1 if _gif_is_cut(path, size) else 0
    elif head[4:8] in _BOXES:
        end = _last_box_end(path, size)
    else:
        end = 0
    return max(0, end - size)


def is_mp4(path: Path) -> bool:
    """Whether a file is MP4 or MOV, which count their frames."""
    with path.open("rb") as f:
        return f.read(8)[4:] in _BOXES


def names_other_files(path: Path) -> bool:
    """Whether a file is a playlist (HLS, DASH, FFmpeg's concat, SDP), which opens other files or hosts."""
    with path.open("rb") as f:
        head = f.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]", b"RTSPtext")) or b"<MPD" in head


def _gif_is_cut(path: Path, size: int) -> bool:
    """Whether the trailer is missing: a semicolon after an empty block."""
    with path.open("rb") as f:
        f.seek(max(0, size - 256))
        return not f.read().rstrip(b"\0\r\n").endswith(b";")


def _segment_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends; 0 if its size is unknown."""
    at = head.find(_SEGMENT)
    if at < 0 or at + 12 > len(head) or not head[at + 4]:
        return 0
    width = 9 - head[at + 4].bit_length()
    size = int.from_bytes(head[at + 4 : at + 4 + width], "big") - (1 << 7 * width)
    unknown = (1 << 7 * width) - 1
    return 0 if size in (0, unknown) else at + 4 + width + size


def _last_box_end(path: Path, length: int) -> int:
    at = 0
    with path.open("rb") as f:
        while at < length:
            f.seek(at)
            header = f.read(16)
            if len(header) < 8:
                return at + 8
            size = int.from_bytes(header[:4], "big")
            if size == 1:
                size = int.from_bytes(header[8:16], "big")
            elif size == 0:  # to the end of the file
                return length
            if size < 8 or not header[4:8].isascii():  # not a box: whatever follows is no part of the video
                return length
            at += size
    return at


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
                return f.read(min(payload, path.stat().st_size))
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
