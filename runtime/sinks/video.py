"""Frames with their overlay as a video file, or in a window."""

from __future__ import annotations

from pathlib import Path
from queue import Empty, LifoQueue

import cv2
import numpy as np

from edgedet.contract.errors import OutputError, SinkError
from edgedet.contract.frames import Frame, Image, Notice
from edgedet.contract.results import Result
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sinks.outputs import OutputFile, check_outputs
from edgedet.runtime.sinks.overlay import Style, draw_label
from edgedet.runtime.sinks.recorder import Recorder, have_pyav
from edgedet.runtime.sinks.sink import RunInfo, Sink
from edgedet.runtime.sinks.worker import Worker

_SUFFIXES = (".mp4", ".mov", ".avi")
_PICTURE_RATE = 25.0  # pictures without a time, such as a folder's, are shown at this rate
_FRAMES, _BYTES = (4, 32), 16 << 20
"""How many frames may wait for the encoder: as many as fit into so many bytes, at least and at most."""
_HUNG = 30.0
"""Seconds after which an encoder that takes no frame is given up."""
_CLOSE = 10.0
"""Seconds for the encoder to finish what it was given."""
_RED = (0, 0, 200)


class VideoFile(Sink):
    """An annotated video with real times: a file's own, of a live source when each frame came.

    It grows under its own name and plays at any moment, whatever ends the process (MP4 and MOV with PyAV,
    all but the last second; see `backend_opencv` for .avi and for a machine without PyAV, where the rate is
    constant and an .mp4 is whole only when it is closed). Nothing is lost that stood there before: see
    `outputs`. All frames get the size of the first, see `Recorder`.

    The encoder has a thread of its own. A live source never waits for it: frames that it cannot take are left
    out and counted. Of a file every frame is written. When it fails, as on a full disk, a file's run ends
    with that error; a live one says so at once, goes on, and ends with the error.

    Args:
        path: ends in .mp4, .mov or .avi.
    """

    name = "video"

    def __init__(self, path: str | Path) -> None:
        silence_opencv()
        self._path = Path(path)
        self._file: OutputFile | None = None
        self._recorder: Recorder | None = None
        self._worker: Worker | None = None
        self._free: LifoQueue[Image] = LifoQueue()
        self._buffers = 0
        self._held: Image | None = None
        self._live = False
        self._next = 0.0
        self._step = 1 / _PICTURE_RATE
        self.written = 0
        """Frames recorded."""
        self.missed = 0
        """Frames of a live source that the encoder could not take."""

    def open(self, stream: RunInfo) -> None:
        """See Sink. Raises OutputError: the folder cannot be written, or the suffix is unknown.

        UsageError: it is a file that the source reads.
        """
        if self._path.suffix.lower() not in _SUFFIXES:
            raise OutputError(
                f"Cannot write a video as {self._path.name!r}.", hint="Name it .mp4, .mov or .avi."
            )
        check_outputs({"the video": self._path}, {"the source": stream.inputs})
        self._live = stream.live
        if stream.fps and stream.fps <= 1000:
            self._step = 1 / stream.fps
        self._file = OutputFile(self._path, live=stream.live)
        if self._path.suffix.lower() != ".avi" and not have_pyav():
            self.tell(
                Notice(
                    "video: PyAV is not installed (extra av): one constant rate, and what a kill interrupts "
                    "does not play. Name it .avi for one that does."
                )
            )
        self._recorder = Recorder(self._file, live=stream.live, rate=stream.fps, began=self._say_where)
        self._worker = Worker(
            "record",
            self._work,
            tick=self._recorder.tick,
            skipped=self._skip,
            ended=self._end,
            failed=self._say_failure,
        )

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink. Raises what the encoder raised, except in a live run, which `close` ends with that."""
        worker = self._worker
        assert worker is not None, "write without open"
        if worker.error is not None:
            if not self._live:
                raise worker.error
            self.missed += 1
            return
        when = frame.captured if self._live else self._media_time(frame)
        image = frame.image
        buffer = self._buffer(image)
        if buffer is None:
            self.missed += 1
            return
        np.copyto(buffer, image)
        worker.put((buffer, when))

    def notice(self, notice: Notice) -> None:
        """See Sink. A lost source looks lost in the recording."""
        if self._worker is not None and self._live and notice.kind == "lost":
            self._worker.put(notice)

    def close(self) -> None:
        """See Sink. Raises what the encoder raised, or SinkError when it does not end."""
        worker, self._worker = self._worker, None
        if worker is None or self._file is None:
            return
        if not worker.close(_CLOSE):
            raise SinkError(
                f"The encoder did not end within {_CLOSE:g} s; what it wrote so far is in {self._file.path}."
            )
        if self.missed:
            self.tell(Notice(f"video: {self.missed} frames not recorded: the encoder could not keep up."))
        whole = self.whole and worker.error is None
        self._file.close(whole=whole)
        if not whole and self._file.path != self._file.target and not self._live:
            self.tell(Notice(f"video: {self._path} is as it was; the recording is {self._file.path}."))
        if worker.error is not None:
            raise worker.error

    def _buffer(self, image: Image) -> Image | None:
        """Where a copy of `image` goes; None if a live source's frame would have to wait for one."""
        most = min(max(_FRAMES[0], _BYTES // image.nbytes), _FRAMES[1])
        try:
            wait = not self._live and self._buffers >= most
            buffer = self._free.get(timeout=_HUNG) if wait else self._free.get_nowait()
        except Empty:
            if self._buffers >= most:
                if self._live:
                    return None
                raise SinkError(f"The encoder has taken no frame for {_HUNG:g} s.") from None
            self._buffers += 1
            return np.empty_like(image)
        return buffer if buffer.shape == image.shape else np.empty_like(image)

    def _media_time(self, frame: Frame) -> float:
        """The medium's time where it has one that goes on, else the next at the source's rate."""
        when = frame.media_time
        if when is None or not np.isfinite(when) or when < self._next - self._step:
            when = self._next
        self._next = when + self._step
        return when

    # on the worker's thread

    def _work(self, item: tuple[Image, float] | Notice) -> None:
        assert self._recorder is not None
        if isinstance(item, Notice):
            self._recorder.lost(item.text)
            return
        buffer, when = item
        try:
            self._recorder.picture(buffer, when)
            self.written += 1
        finally:
            if self._held is not None:
                self._free.put(self._held)
            self._held = buffer

    def _skip(self, item: tuple[Image, float] | Notice) -> None:
        if not isinstance(item, Notice):
            self.missed += 1
            self._free.put(item[0])

    def _end(self, well: bool) -> None:
        assert self._recorder is not None
        if well:
            self._recorder.close()
        else:
            self._recorder.abandon()

    def _say_failure(self, error: Exception) -> None:
        if self._live:
            self.tell(Notice(f"video: {error} Nothing more is recorded."))

    def _say_where(self) -> None:
        assert self._file is not None
        if self._live and self._file.path != self._file.target:
            self.tell(Notice(f"video: {self._path} exists; recording to {self._file.path}."))


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
