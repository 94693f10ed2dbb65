"""Video files by OpenCV: one constant rate. For .avi, and where PyAV is not installed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np

from edgedet.contract.errors import OutputError
from edgedet.contract.files import output_error
from edgedet.contract.frames import Image
from edgedet.contract.text import is_utf8

_RATES = (1.0, 120.0)  # what a source may claim to be believed
_DEFAULT_RATE = 25.0
_CODECS = {".avi": "MJPG"}
_CODEC = "mp4v"
_SPARE_BYTES = 1 << 20
"""Kept free on the disk, for the index: OpenCV does not say when a write fails."""


class OpencvWriter:
    """One video. An .avi is readable while it is written (all but the last 256 KiB); .mp4 and .mov are not.

    A live source's times are kept by frames that are repeated or left out; a file's frames are written once
    each.

    Args:
        path: a file that exists and may be overwritten.
        size: (height, width), both even.
        rate: frames a second that the source claims.
        live: whether times are to be kept.
    """

    variable_rate = False

    def __init__(self, path: Path, size: tuple[int, int], *, rate: float | None, live: bool) -> None:
        """Raises OutputError: OpenCV cannot write this."""
        believed = rate is not None and _RATES[0] <= rate <= _RATES[1]
        self._rate = rate if believed and rate is not None else _DEFAULT_RATE
        self._live, self._path = live, path
        self._written = 0
        self._before: Image | None = None
        if not is_utf8(path):
            raise OutputError(f"OpenCV cannot write {path}: its name is not UTF-8.", hint="Choose another.")
        codec = cv2.VideoWriter.fourcc(*_CODECS.get(path.suffix.lower(), _CODEC))
        try:
            self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, self._rate, size[::-1])
            opened = self._writer.isOpened()
        except (cv2.error, UnicodeError):
            opened = False
        if not opened:
            raise OutputError(f"OpenCV cannot write {str(path)!r} of {size[1]}x{size[0]} pixels.")

    def write(self, image: Image, seconds: float) -> None:
        """One frame at `seconds`. Raises OutputError before the disk is full."""
        disk = os.statvfs(self._path)
        if disk.f_bavail * disk.f_frsize < _SPARE_BYTES:
            raise output_error(self._path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        slot = round(seconds * self._rate) if self._live else self._written
        while self._before is not None and self._written < slot:
            self._writer.write(self._before)
            self._written += 1
        if self._written == slot:
            self._writer.write(image)
            self._written += 1
        if self._live:
            if self._before is None:
                self._before = np.empty_like(image)
            np.copyto(self._before, image)

    def close(self) -> None:
        """The index; whole afterwards."""
        self._writer.release()

    abandon = close
