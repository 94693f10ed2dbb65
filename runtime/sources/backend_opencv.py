"""Videos, streams and cameras by OpenCV and the FFmpeg inside it.

It says nothing of why something failed, and scales a frame of another size to that of the first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image
from edgedet.contract.text import is_utf8
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources.containers import is_mp4, visible_share
from edgedet.runtime.sources.reader import (
    STREAM_FORMATS,
    STREAM_PROTOCOLS,
    TRIES,
    Location,
    NotThere,
    Reader,
    check_pixels,
    decoder_threads,
    shown,
    unreachable,
)

_OPTIONS = f"rtsp_transport;tcp|protocol_whitelist;file,{STREAM_PROTOCOLS}|format_whitelist;{STREAM_FORMATS}"
"""For all that OpenCV's FFmpeg opens in this process: it takes them from the environment only."""


class OpenCVReader(Reader):
    """See Reader."""

    def __init__(self, location: Location, *, timeout: float) -> None:
        silence_opencv()
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _OPTIONS)
        self._location = location
        began = time.monotonic()
        if isinstance(location, int) or str(location).startswith("/dev/"):
            self._capture = cv2.VideoCapture(location)
        else:
            options = [cv2.CAP_PROP_N_THREADS, decoder_threads(location)]
            if isinstance(location, str):
                wait = round(1000 * timeout)
                options += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
            where = str(location.absolute()) if isinstance(location, Path) else location
            if not is_utf8(where):
                raise SourceError(
                    f"OpenCV cannot open {shown(location)}: its name is not UTF-8.",
                    hint="Rename it, or install PyAV: pip install 'edgedet[av]'.",
                )
            self._capture = cv2.VideoCapture(where, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise _failure(location, time.monotonic() - began, timeout)
        self._timeout = timeout
        self._gap = 0  # failures to grab that a good frame followed
        self._read = 0
        fps = self._get(cv2.CAP_PROP_FPS)
        frames = int(self._get(cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if fps > 0 else None
        self.frames = frames if frames > 0 else None
        self.counted = isinstance(location, Path) and is_mp4(location)
        self.endless = self.frames is None
        try:
            check_pixels(location, int(self._get(4)), int(self._get(3)))
        except SourceError:
            self.close()
            raise

    def grab(self) -> bool:
        """See Reader."""
        began = time.monotonic()
        if not self._capture.grab() and not self._after_a_gap():
            if not isinstance(self._location, Path) and time.monotonic() - began > 0.9 * self._timeout:
                raise SourceError(f"nothing came for {self._timeout:g} s.")
            return False
        self._read += 1
        if isinstance(self._location, Path) or not self.endless:
            at = self._get(cv2.CAP_PROP_POS_MSEC) / 1e3
            self.media_time = None if at <= 0 and self._read > 1 else at  # 0 where there are no times
        return True

    def retrieve(self, buffer: Image | None) -> Image:
        """See Reader."""
        good, image = self._capture.retrieve(buffer)
        if not good:
            raise SourceError(f"A frame of {shown(self._location)} cannot be converted to BGR.")
        return image  # type: ignore[return-value]

    def missing(self, read: int) -> int:
        """See Reader. Only some containers count their frames; others know at most how long they last."""
        location, total = self._location, self.frames
        if total is None or not isinstance(location, Path) or not self.counted:
            return self._gap
        share = visible_share(location)
        # a trimmed video still holds, and counts, the frames that its edit list hides
        return max(0, (total if share >= 1 else int(total * share) - 1) - read)

    def close(self) -> None:
        """See Reader."""
        self._capture.release()

    def _after_a_gap(self) -> bool:
        """Whether others wait in the decoder, or follow, after a frame that is corrupt or cut off."""
        if not isinstance(self._location, Path) or (self.frames is not None and self._read >= self.frames):
            return False
        for tries in range(1, TRIES + 1):
            if self._capture.grab():
                self._gap += tries
                return True
        return False

    def _get(self, what: int) -> float:
        return float(self._capture.get(what))


def _failure(location: Location, seconds: float, timeout: float) -> SourceError:
    """What to say of a location that cannot be opened."""
    name = shown(location)
    if isinstance(location, Path):
        return SourceError(
            f"Cannot open {name} ({location.stat().st_size} bytes): no video stream that can be decoded.",
            hint="It may be truncated, sound only, or of a kind that OpenCV's FFmpeg does not read; "
            "with pip install 'edgedet[av]' more kinds are read.",
        )
    if isinstance(location, int) or location.startswith("/dev/"):
        device = f"/dev/video{location}" if isinstance(location, int) else location
        return NotThere(
            f"Cannot open {name}.",
            hint="Check that it is plugged in, that no other program uses it, and that you may read "
            f"{device}.",
        )
    if seconds > 0.9 * timeout:
        return NotThere(
            f"Cannot open {name}: no answer within {timeout:g} s.",
            hint="Check the address, and that the camera is on; a slow one needs a longer timeout.",
        )
    return unreachable(location, timeout) or SourceError(
        f"Cannot open {name}: it answers, but sends no video that can be read.",
        hint="Check the path, the user name and password.",
    )
