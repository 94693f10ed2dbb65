"""What an image file's header says, before anything is decoded: format and size.

JPEG: ITU T.81, annex B. PNG: specification, 5.3. WebP: container specification. TIFF 6.0, section 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

# inside a scan 0xff is followed by 0 (a stuffed byte), by a restart marker, or by fill bytes
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def stored_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the pixels as they are stored; None where the header does not say it.

    Of a TIFF, the larger of its first image and that image's tiles or strips, which are decoded whole.
    """
    try:
        if data.startswith(JPEG):
            return jpeg_frame(data)
        if data.startswith(PNG):
            return _png(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
    except (struct.error, IndexError):  # it ends within its header
        return None
    return None


def known_format(data: bytes) -> bool:
    """Whether it begins as a JPEG, PNG, BMP, WebP or TIFF file does."""
    starts = (JPEG, PNG, b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return data.startswith(starts) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of payload, end of payload) up to the end mark (0xd9), or as far as the file goes.

    Walked rather than searched: an embedded thumbnail has an end mark of its own.
    """
    at = 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xD9:
            yield marker, at + 2, at + 2
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a payload
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        at = end
        if marker == 0xDA:  # a scan: its data runs to the next marker
            following = _NEXT_MARKER.search(data, end)
            if following is None:
                break
            at = following.start()


def is_frame(marker: int) -> bool:
    """Whether a JPEG marker begins a frame (SOF0 to SOF15), whose header has the size."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG's frame header."""
    for marker, start, _ in jpeg_segments(data):
        if is_frame(marker):
            height, width = struct.unpack(">HH", data[start + 1 : start + 5])
            return int(height), int(width)
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk that is there whole, its length and checksum included."""
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + length > len(data):
            break
        yield kind, at, at + 12 + length
        at += 12 + length


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return int(height), int(width)


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack("<I", data[14:18])[0] == 12:  # OS/2's header
        width, height = struct.unpack("<HH", data[18:22])
    else:
        width, height = struct.unpack("<ii", data[18:26])
    return abs(int(height)), abs(int(width))  # a negative height: from the top down


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack(order + "H", data[2:4])[0] == 43
    at = struct.unpack(order + ("Q" if big else "I"), data[8:16] if big else data[4:8])[0]
    head, entry = ("Q", 20) if big else ("H", 12)
    count = struct.unpack_from(order + head, data, at)[0]
    at += struct.calcsize(head)
    found: dict[int, int] = {}
    for _ in range(min(count, 4096)):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        where = at + (12 if big else 8)
        # the first value, which lies in the entry itself where it is one: SHORT, LONG, LONG8
        letter = {3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is not None:
            found.setdefault(tag, struct.unpack_from(order + letter, data, where)[0])
        at += entry
    if 256 not in found or 257 not in found:
        return None
    height, width = found[257], found[256]
    tile = found.get(323, 0), found.get(322, 0)
    return tile if tile[0] * tile[1] > height * width else (height, width)
