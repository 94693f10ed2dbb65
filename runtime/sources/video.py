"""A video file as a source."""

from __future__ import annotations

from pathlib import Path

import cv2

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image
from edgedet.runtime.hardware import cores
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources.mp4 import visible_share
from edgedet.runtime.sources.source import Source

_EXACT = (".mp4", ".m4v", ".mov")
"""Containers that count their frames; others know at most how long they last."""

_MISSING_SECONDS = 1.0

_TRIES = 32
"""Frames in a row that may be corrupt; also more than a decoder can hold back (16 in H.264)."""


class Video(Source):
    """All frames of a video, or an error that says where they end too early.

    A corrupt frame is passed over and those after it are still delivered. FFmpeg does not say why it
    delivers no further frame, so the end is compared with what the container announced: in MP4 and MOV the
    number of frames, in others the duration, to a second.

    Args:
        location: a file, or the URL of one.
        name: what results call it.
        timeout: seconds a URL may take to open or to deliver.
    """

    def __init__(self, location: str | Path, *, name: str, timeout: float = 5.0) -> None:
        silence_opencv()
        self.name = name
        self._location = location
        options = [cv2.CAP_PROP_N_THREADS, _decoder_threads()]
        if not isinstance(location, Path):
            wait = round(1000 * timeout)
            options += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
        self._video = cv2.VideoCapture(str(location), cv2.CAP_FFMPEG, options)
        if not self._video.isOpened():
            raise SourceError(
                f"Cannot open the video {name}{_size(location)}.",
                hint="It may be truncated, or of a kind that OpenCV's FFmpeg does not read.",
            )
        fps = self._video.get(cv2.CAP_PROP_FPS)
        frames = int(self._video.get(cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if fps > 0 else None
        self.frames = frames if frames > 0 else None
        self._read = 0
        self._reached = 0.0  # seconds
        self._gap: int | None = None  # frames before the first that could not be decoded

    def grab(self) -> bool:
        """See Source. Raises SourceError where frames were missing, after the last one."""
        if not self._advance():
            self._check_end()
            return False
        self._read += 1
        self._reached = self._video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        return True

    def retrieve(self, buffer: Image | None) -> Image:
        """See Source."""
        good, image = self._video.retrieve(buffer)
        if not good:
            raise SourceError(f"Frame {self._read} of the video {self.name} cannot be converted to BGR.")
        return image  # type: ignore[return-value]

    def _advance(self) -> bool:
        if self._video.grab():
            return True
        if self.frames is None or self._read < self.frames:
            # not yet the end: after a corrupt frame, or one cut off, others wait in the decoder or follow
            self._gap = self._read if self._gap is None else self._gap
            if isinstance(self._location, Path):
                return any(self._video.grab() for _ in range(_TRIES))
        return False

    def _check_end(self) -> None:
        total, fps = self.frames, self.fps
        if total is None or self._read >= total:
            return
        location = self._location
        if isinstance(location, Path) and location.suffix.lower() in _EXACT:
            share = visible_share(location)
            # a trimmed video still holds, and counts, the frames that its edit list hides
            missing = (total if share >= 1 else int(total * share) - 1) - self._read
        elif fps is not None:
            missing = round(total - (self._reached + _MISSING_SECONDS) * fps)
        else:
            missing = 0
        if missing > 0:
            raise SourceError(
                f"{missing} of {total} frames of the video {self.name} are missing or corrupt, the first "
                f"near frame {self._gap}: it is damaged or truncated.",
                hint="The results of the other frames are whole. Copy or encode the file again.",
            )

    def close(self) -> None:
        """See Source."""
        self._video.release()


def _decoder_threads() -> int:
    """A decoder on several threads costs more CPU in all, which a small machine needs for the engine."""
    return max(1, cores() // 4)


def _size(location: str | Path) -> str:
    return f" ({location.stat().st_size} bytes)" if isinstance(location, Path) else ""
