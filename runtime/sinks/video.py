"""Frames with their overlay as a video file, or in a window."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from edgedet.contract.errors import OutputError, SinkError
from edgedet.contract.files import output_error
from edgedet.contract.frames import Frame, Image, Notice
from edgedet.contract.results import Result
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sinks.overlay import Style, draw_label
from edgedet.runtime.sinks.sink import RunInfo, Sink

_DEFAULT_FPS = 25.0
_CODEC = "mp4v"  # MPEG-4 part 2: the one that every build of OpenCV can write
_MAX_REPEAT_SECONDS = 2.0
_RED = (0, 0, 200)


class VideoFile(Sink):
    """An annotated video: written beside its name, renamed when it is closed and whole.

    It plays at the source's frame rate (25 where it has none). A live source's frames are repeated or
    left out so that the video keeps the pace of the clock, at most 2 s for one gap. All frames get the
    size of the first.

    Args:
        path: ends in .mp4, .mov or .avi.
    """

    name = "video"

    def __init__(self, path: str | Path) -> None:
        silence_opencv()
        self._path = Path(path)
        self._opened = False
        self._temporary = self._path.with_name(f".{self._path.stem}.{os.getpid()}.partial{self._path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._resized: Image | None = None
        self._fps = _DEFAULT_FPS
        self._live = False
        self._began = 0.0
        self._written = 0

    def open(self, stream: RunInfo) -> None:
        """See Sink. Raises OutputError: the folder cannot be written, or the suffix is unknown."""
        self._fps, self._live = stream.fps or _DEFAULT_FPS, stream.live
        if self._path.suffix.lower() not in (".mp4", ".mov", ".avi"):
            raise OutputError(
                f"Cannot write a video as {self._path.name!r}.", hint="Name it .mp4, .mov or .avi."
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
            self._opened = True
        except OSError as e:
            raise output_error(self._path, e) from e

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        image = frame.image
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._began = frame.captured
            codec = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise OutputError(
                    f"OpenCV cannot write {self._path} ({_CODEC}, {self._size[0]}x{self._size[1]})."
                )
        if (image.shape[1], image.shape[0]) != self._size:
            self._resized = cv2.resize(image, self._size, dst=self._resized)  # type: ignore[assignment]
            image = self._resized  # type: ignore[assignment]
        for _ in range(self._copies(frame)):
            self._writer.write(image)
            self._written += 1

    def _copies(self, frame: Frame) -> int:
        if not self._live:
            return 1
        due = 1 + round((frame.captured - self._began) * self._fps)
        gap = due - self._written
        most = round(_MAX_REPEAT_SECONDS * self._fps)
        if gap > most:
            # a long silence is cut: from here on the video's clock is that much behind
            self._began += (gap - most) / self._fps
        return max(0, min(gap, most))

    def close(self) -> None:
        """See Sink. Raises OutputError when the file did not become whole, as on a full disk."""
        try:
            if self._writer is not None:
                self._writer.release()
                self._writer = None
                self._check_whole()
                self._temporary.replace(self._path)
        except OSError as e:
            raise output_error(self._path, e) from e
        finally:
            if self._opened:
                self._temporary.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        """OpenCV's writer never says that a write failed, so ask the file how many frames it has."""
        check = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
        frames = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if frames < self._written:
            raise OutputError(
                f"The video {self._path} did not become whole: {frames} of {self._written} frames.",
                hint="The disk may be full.",
            )


class Window(Sink):
    """The frames in a window as they come; q, Escape or closing it ends the run."""

    name = "window"

    def __init__(self, title: str = "edgedet") -> None:
        silence_opencv()
        self._title = title
        self._opened = False
        self._last: Image | None = None

    def open(self, stream: RunInfo) -> None:
        """See Sink. Raises SinkError: this OpenCV, or this machine, has no windows."""
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise SinkError(
                "This OpenCV cannot show windows (a headless build, or no display).",
                hint="Save a video (--save out.mp4) or print JSON lines (--json-lines -), or replace "
                "opencv-contrib-python-headless by opencv-contrib-python.",
            ) from None
        self._opened = True

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        if self._last is None or self._last.shape != frame.image.shape:
            self._last = frame.image.copy()
        else:
            np.copyto(self._last, frame.image)
        self._show(self._last)

    def notice(self, notice: Notice) -> None:
        """See Sink. Written across the last frame: a lost source must not look like a still scene."""
        image = np.zeros((360, 640, 3), np.uint8) if self._last is None else self._last.copy()
        height, width = image.shape[:2]
        draw_label(image, notice.text, (0, height), _RED, Style(height, width))
        self._show(image)

    def _show(self, image: Image) -> None:
        cv2.imshow(self._title, image)
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), 27) or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            self.stop()

    def close(self) -> None:
        """See Sink."""
        if self._opened:
            cv2.destroyWindow(self._title)
            self._opened = False
