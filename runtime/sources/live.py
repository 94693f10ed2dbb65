"""A camera or a network stream as a source: it may pause, vanish, and come back in another size."""

from __future__ import annotations

from queue import Empty, SimpleQueue

import cv2

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, Notice
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources.source import Source, public_name

_FIRST_PAUSE = 0.5  # seconds before the second try; doubled for each further one
_LONGEST_PAUSE = 8.0


class Live(Source):
    """The newest frames of a camera or stream.

    A pause of less than `timeout` is waited out. When it is lost it is opened again, up to `reconnects`
    times in a row, and says so each time; meanwhile there are no frames, never old or black ones.

    Args:
        target: a camera's index or device, or a URL.
        timeout: seconds to open, and to wait for the next frame.
        reconnects: tries in a row; 0 for none.

    Raises:
        SourceError: it cannot be opened in time. From `grab`: it is lost for good.
    """

    live = True

    def __init__(self, target: int | str, *, timeout: float = 5.0, reconnects: int = 5) -> None:
        silence_opencv()
        self._target = target
        self._timeout = timeout
        self._reconnects = reconnects
        self._stopping = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        if isinstance(target, int):
            self.name = f"camera {target}"
        else:
            self.name = public_name(target)
        self._capture: cv2.VideoCapture | None = None
        if not self._open():
            raise self._unreachable()

    def grab(self) -> bool:
        """See Source."""
        while not self._stopping:
            if self._capture is not None and self._capture.grab():
                return True
            if not self._reconnect():
                return False
        return False

    def retrieve(self, buffer: Image | None) -> Image:
        """See Source."""
        assert self._capture is not None, "retrieve without grab"
        good, image = self._capture.retrieve(buffer)
        if not good:
            raise SourceError(f"A frame of {self.name} cannot be converted to BGR.")
        return image  # type: ignore[return-value]

    def stop(self) -> None:
        """See Source."""
        self._stopping = True
        self._wake.put(None)

    def close(self) -> None:
        """See Source."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _open(self) -> bool:
        self.close()
        wait = round(1000 * self._timeout)
        if isinstance(self._target, int) or self._target.startswith("/dev/"):
            capture = cv2.VideoCapture(self._target)
        else:
            # one decoding thread: several hold back as many frames
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
            options += [cv2.CAP_PROP_N_THREADS, 1]
            capture = cv2.VideoCapture(self._target, cv2.CAP_FFMPEG, options)
        if not capture.isOpened():
            capture.release()
            return False
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if fps > 0 else None
        self.frames = frames if frames > 0 else None
        return True

    def _reconnect(self) -> bool:
        """Open again; False if told to stop meanwhile, SourceError if it stays away."""
        self.close()
        pause = 0.0
        for attempt in range(1, self._reconnects + 1):
            if self._stopping:
                return False
            self.notify(
                Notice(f"{self.name} is lost: opening it again ({attempt} of {self._reconnects})", "lost")
            )
            if pause:
                self._sleep(pause)
            if not self._stopping and self._open():
                self.notify(Notice(f"{self.name} is back", "back"))
                return True
            pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
        if self._stopping:
            return False
        raise SourceError(
            f"{self.name} is lost, and {self._reconnects} tries to open it again failed.",
            hint="Check its power, cable and network.",
        )

    def _sleep(self, seconds: float) -> None:
        try:
            self._wake.get(timeout=seconds)
        except Empty:
            return

    def _unreachable(self) -> SourceError:
        if isinstance(self._target, int) or self._target.startswith("/dev/"):
            return SourceError(
                f"Cannot open {self.name}.",
                hint="Check that it is plugged in, that no other program uses it, and that you may read "
                f"/dev/video{self._target if isinstance(self._target, int) else '*'}.",
            )
        return SourceError(
            f"Cannot open {self.name} within {self._timeout:g} s.",
            hint="Check the address, the user name and password, and that the camera answers.",
        )
