"""Image files to pixels, refusing what is only half there.

`cv2.imread` fills the missing rest of a truncated JPEG with grey, and whether `cv2.imdecode` does depends
on OpenCV's version; so the file's structure is checked before its pixels are believed. Of a JPEG damaged
inside, libjpeg says what it notices, but OpenCV does not pass it on: simplejpeg (the same libjpeg-turbo)
does, and what it reports is refused. Not all damage can be known: JPEG has no checksums, and other bytes
may be as good an image to a decoder. PNG has checksums, and OpenCV heeds them.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import ImageError
from edgedet.contract.image_headers import (
    JPEG,
    PNG,
    is_frame,
    jpeg_segments,
    known_format,
    png_chunks,
    stored_size,
)
from edgedet.contract.reading import read_bytes

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""The image files that edgedet looks for in folders."""

MAX_PIXELS = 128_000_000
"""The largest image that is decoded: 384 MB of pixels. A file of a few bytes can claim any size."""

MAX_BYTES = 1 << 29
"""The largest image file that is read."""

HEADER = 1 << 16
"""Bytes in which an image's size is looked for."""

_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression", "Unsupported marker")
"""How libjpeg's warnings begin that tell of missing or wrong pixels; others tell of odd headers."""


def read_image(path: Path, *, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 BGR, upright by its EXIF orientation.

    Args:
        path: the file.
        size: (height, width) the labels are for. Where only the pixels as stored have it, they are
            returned as stored.

    Raises:
        ImageError: the file is absent, no regular file, empty, truncated, damaged (as far as that can be
            known), no image, of more than `MAX_PIXELS`, or of another size.
    """
    data = _bytes(path)
    _expect_whole(path, data)
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
        ImageError: as for `read_image`.
    """
    data = _bytes(path)
    _expect_whole(path, data)
    if not data.startswith(PNG):
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
    found: tuple[int, int] | None = None
    if (data.startswith(PNG) and b"eXIf" not in data) or (data.startswith(JPEG) and not _has_exif(data)):
        found = stored_size(data)
    if found is not None and 0 < found[0] * found[1] <= MAX_PIXELS:
        return found
    height, width = read_image(path).shape[:2]
    return int(height), int(width)


def may_have(path: Path, size: tuple[int, int]) -> bool:
    """Whether `read_image(path, size=size)` may succeed, as far as the header tells; nothing is decoded."""
    try:
        data = _bytes(path, HEADER)
    except ImageError:
        return False
    found = stored_size(data)
    if found is None:
        return known_format(data)
    turned = not data.startswith(JPEG) or _has_exif(data)
    return found == size or (turned and found == size[::-1])


def list_images(folder: Path, *, deep: bool = False) -> list[Path]:
    """The image files directly in a folder, by path; deep: in the folders in it too. Not the hidden ones."""
    return sorted(
        p
        for p in (folder.rglob("*") if deep else folder.iterdir())
        if p.suffix.lower() in ENDINGS
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        data = read_bytes(path, MAX_BYTES, count=count)
    except OSError as e:
        raise ImageError(f"Cannot read the image {path}: {e.strerror or e}.") from None
    if not data:
        raise ImageError(f"The image {path} is empty (0 bytes).", hint="Copy it again, or remove it.")
    return data


def _expect_whole(path: Path, data: bytes) -> None:
    """ImageError for what is known to be no whole image, before anything is decoded."""
    if not known_format(data):
        raise ImageError(
            f"The image {path} cannot be decoded: it is neither JPEG, PNG, BMP, WebP nor TIFF.",
            hint="Convert it to JPEG or PNG, or remove it.",
        )
    size = stored_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"The image {path} is {size[1]}x{size[0]}, more than {MAX_PIXELS // 1_000_000} million pixels.",
            hint="Shrink it or cut it into parts, or remove it.",
        )
    whole = _jpeg_is_whole(data) if data.startswith(JPEG) else not data.startswith(PNG) or _png_is_whole(data)
    if not whole:
        raise ImageError(
            f"The image {path} is truncated: it ends after {len(data)} bytes, before its end mark.",
            hint="Copy it again, or remove it.",
        )
    if size is None or 0 in size:
        raise ImageError(f"The image {path} cannot be decoded: its header says no size.")
    damage = _jpeg_damage(data) if data.startswith(JPEG) else ""
    if damage:
        raise ImageError(f"The image {path} is damaged: {damage}.", hint="Copy it again, or remove it.")


def _decode(path: Path, data: bytes, flags: int) -> npt.NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise ImageError(f"The image {path} cannot be decoded: {e.err}.") from None
    if image is None:
        raise ImageError(
            f"The image {path} cannot be decoded.", hint="Convert it to JPEG or PNG, or remove it."
        )
    return np.asarray(image)


def _jpeg_is_whole(data: bytes) -> bool:
    return any(marker == 0xD9 for marker, _, _ in jpeg_segments(data))


def _jpeg_damage(data: bytes) -> str:
    """What libjpeg finds missing or wrong inside a JPEG; empty if nothing, or without simplejpeg.

    Decoded to an eighth of its size, in about half the time that the image itself takes.
    """
    try:
        import simplejpeg
    except ImportError:  # no wheel for this machine
        return ""
    kept, last, components = [data[:2]], 2, 0
    for marker, start, end in jpeg_segments(data):
        if is_frame(marker) and start + 5 < len(data):
            components = data[start + 5]
        # of odd profiles and comments libjpeg warns too, and then keeps silent about the rest
        if marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE):
            kept.append(data[last : start - 4])
            last = end
    kept.append(data[last:])
    colours = "CMYK" if components == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(b"".join(kept), colours, min_height=1, min_width=1, strict=True)
    except ValueError as e:  # other errors are the decoder's to name
        return str(e) if str(e).startswith(_DAMAGE) else ""
    return ""


def _has_exif(data: bytes) -> bool:
    """Whether EXIF may turn a JPEG: it stands before the frame."""
    before = itertools.takewhile(lambda segment: not is_frame(segment[0]), jpeg_segments(data))
    return any(m == 0xE1 and data[start : start + 4] == b"Exif" for m, start, _ in before)


def _png_is_whole(data: bytes) -> bool:
    """Whether the chunks reach IEND."""
    return any(kind == b"IEND" for kind, _, _ in png_chunks(data))


def _without_palette(data: bytes) -> tuple[bytes, int]:
    """A PNG of nothing but its samples, palette indices called grey levels; and the indices' factor.

    A decoder spreads grey levels of less than 8 bits over 0..255, so indices come out times that factor.
    """
    out, factor = [PNG], 1
    for kind, start, end in png_chunks(data):
        if kind == b"IHDR" and end - start == 25 and data[start + 17] == 3:  # colour type 3: a palette
            header = data[start + 4 : start + 17] + b"\0" + data[start + 18 : start + 21]
            out.append(data[start : start + 4] + header + struct.pack(">I", zlib.crc32(header)))
            factor = 255 // ((1 << data[start + 16]) - 1) if data[start + 16] in (1, 2, 4) else 1
        elif kind in (b"IHDR", b"IDAT", b"IEND"):
            out.append(data[start:end])
    return b"".join(out), factor
