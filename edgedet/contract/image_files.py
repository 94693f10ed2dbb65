"""Image files to pixels, refusing what is only half there.

`cv2.imread` fills the missing rest of a truncated JPEG with grey, and whether `cv2.imdecode` does depends
on OpenCV's version; so the file's structure is checked before its pixels are believed.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import ImageError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""The image files that edgedet looks for in folders."""

HEADER = 1 << 16
"""Bytes in which an image's size is looked for."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# inside a scan 0xff is followed by 0 (a stuffed byte), by a restart marker, or by fill bytes
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_image(path: Path, *, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 BGR, upright by its EXIF orientation.

    Args:
        path: the file.
        size: (height, width) the labels are for. Where only the pixels as stored have it, they are
            returned as stored.

    Raises:
        ImageError: the file is absent, empty, truncated, no image, or of another size.
    """
    data = _bytes(path)
    image = _decode(path, data, cv2.IMREAD_COLOR)
    if size is not None and image.shape[:2] != size:
        stored = _decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[:2] != size:
            got, want = f"{image.shape[1]}x{image.shape[0]}", f"{size[1]}x{size[0]}"
            raise ImageError(
                f"{path} is {got}, but its labels are for {want}.",
                hint="Label the image again, or remove it.",
            )
        return stored
    return image


def read_stored(path: Path) -> npt.NDArray[Any]:
    """An image file's samples as they are stored: (H, W), or (H, W, channels) BGR; uint8, uint16, ...

    A palette PNG gives its indices, which OpenCV would replace by their colours. Grey levels of 1, 2 or
    4 bits are spread over 0..255, as PNG defines them. EXIF orientation and transparency are not applied.

    Raises:
        ImageError: the file is absent, empty, truncated, or no image.
    """
    data = _bytes(path)
    if not data.startswith(_PNG) or not _png_is_whole(data):
        return _decode(path, data, cv2.IMREAD_UNCHANGED)
    bare, spread = _without_palette(data)
    samples = _decode(path, bare, cv2.IMREAD_UNCHANGED)
    return samples // spread if spread > 1 else samples


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` returns them, from the header where that is enough.

    Raises:
        ImageError: the file is absent or empty, or what `read_image` raises where it had to decode.
    """
    data = _bytes(path, HEADER)
    if data.startswith(_PNG) and len(data) >= 24 and data[12:16] == b"IHDR" and b"eXIf" not in data:
        width, height = struct.unpack(">II", data[16:24])
        return int(height), int(width)
    if data.startswith(_JPEG):
        found = _jpeg_header_size(data)
        if found is not None:
            return found
    height, width = read_image(path).shape[:2]
    return int(height), int(width)


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(count)
    except OSError as e:
        raise ImageError(f"Cannot read the image {path}: {e.strerror or e}.") from None
    if not data:
        raise ImageError(f"The image {path} is empty (0 bytes).", hint="Copy it again, or remove it.")
    return data


def _decode(path: Path, data: bytes, flags: int) -> npt.NDArray[Any]:
    if (data.startswith(_JPEG) and not _jpeg_is_whole(data)) or (
        data.startswith(_PNG) and not _png_is_whole(data)
    ):
        raise ImageError(
            f"The image {path} is truncated: it ends after {len(data)} bytes, before its end mark.",
            hint="Copy it again, or remove it.",
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:  # for example more pixels than OpenCV's limit
        raise ImageError(f"The image {path} cannot be decoded: {e.err}.") from None
    if image is None:
        raise ImageError(
            f"The image {path} cannot be decoded.", hint="Convert it to JPEG or PNG, or remove it."
        )
    return np.asarray(image)


def _jpeg_segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start of payload, end of payload) up to the end mark (0xd9), or as far as the file goes.

    Walked rather than searched: an embedded thumbnail has an end mark of its own. ITU T.81, annex B.
    """
    segments = []
    at = 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xD9:
            segments.append((marker, at + 2, at + 2))
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a payload
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((marker, at + 4, end))
        at = end
        if marker == 0xDA:  # a scan: its data runs to the next marker
            following = _NEXT_MARKER.search(data, end)
            if following is None:
                break
            at = following.start()
    return segments


def _jpeg_is_whole(data: bytes) -> bool:
    segments = _jpeg_segments(data)
    return bool(segments) and segments[-1][0] == 0xD9


def _jpeg_header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the frame header; None where EXIF may turn the image."""
    for marker, start, _ in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 4] == b"Exif":
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0 to SOF15
            height, width = struct.unpack(">HH", data[start + 1 : start + 5])
            return int(height), int(width)
    return None


def _png_is_whole(data: bytes) -> bool:
    """Whether the chunks reach IEND. PNG specification, 5.3."""
    return any(kind == b"IEND" for kind, _, _ in _png_chunks(data))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk that is there whole, its length and checksum included."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + length > len(data):
            break
        yield kind, at, at + 12 + length
        at += 12 + length


def _without_palette(data: bytes) -> tuple[bytes, int]:
    """A PNG of nothing but its samples, palette indices called grey levels; and the indices' factor.

    A decoder spreads grey levels of less than 8 bits over 0..255, so indices come out times that factor.
    """
    out, factor = [_PNG], 1
    for kind, start, end in _png_chunks(data):
        if kind == b"IHDR" and end - start == 25 and data[start + 17] == 3:  # colour type 3: a palette
            header = data[start + 4 : start + 17] + b"\0" + data[start + 18 : start + 21]
            out.append(data[start : start + 4] + header + struct.pack(">I", zlib.crc32(header)))
            factor = 255 // ((1 << data[start + 16]) - 1) if data[start + 16] in (1, 2, 4) else 1
        elif kind in (b"IHDR", b"IDAT", b"IEND"):
            out.append(data[start:end])
    return b"".join(out), factor
