"""A video file as a source."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from edgedet.errors import SourceError
from edgedet.runtime.mp4 import visible_share
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources import Image, Source

_EXACT = (".mp4", ".m4v", ".mov")
"""Containers that count their frames; others know at most how long they last."""

_MISSING_SECONDS = 1.0


class Video(Source):
    """All frames of a video, or an error that says where they end too early.

    FFmpeg does not say why it delivers no further frame, so the end is compared with what the container
    announced: in MP4 and MOV the number of frames, in others the duration, to a second.

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

    def read(self, buffer: Image | None) -> Image | None:
        """See Source. Raises SourceError where the video ends before its announced end."""
        if not self._video.grab():
            self._check_end()
            return None
        good, image = self._video.retrieve(buffer) if buffer is not None else self._video.retrieve()
        if not good:
            self._check_end()
            return None
        self._read += 1
        self._reached = self._video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        return image  # type: ignore[return-value]

    def _check_end(self) -> None:
        total, fps = self.frames, self.fps
        if total is None or self._read >= total:
            return
        location = self._location
        if isinstance(location, Path) and location.suffix.lower() in _EXACT:
            share = visible_share(location)
            # a trimmed video keeps the frames that its edit list hides, and counts them
            expected = total if share >= 1 else int(total * share) - 1
            early = self._read < expected
        elif fps is not None:
            early = self._reached + _MISSING_SECONDS < total / fps
        else:
            early = False
        if early:
            raise SourceError(
                f"The video {self.name} ends after frame {self._read} of {total}: "
                "it is truncated, or the next frame is corrupt.",
                hint="The results up to there are whole. Copy or encode the file again for the rest.",
            )

    def close(self) -> None:
        """See Source."""
        self._video.release()


def _decoder_threads() -> int:
    """A decoder on several threads costs more CPU in all, which a small machine needs for the engine."""
    return max(1, (os.cpu_count() or 1) // 4)


def _size(location: str | Path) -> str:
    return f" ({location.stat().st_size} bytes)" if isinstance(location, Path) else ""
