"""One recording: pictures of one size, each at its time, and what a silence looks like."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

import cv2
import numpy as np

from edgedet.contract.errors import MissingDependency
from edgedet.contract.frames import Image
from edgedet.runtime.sinks.backend_av import AvWriter, load
from edgedet.runtime.sinks.backend_opencv import OpencvWriter
from edgedet.runtime.sinks.outputs import OutputFile
from edgedet.runtime.sinks.overlay import Style, draw_label

_RED = (0, 0, 200)
_SILENCE = 2.0
"""Seconds without a picture that are shown as such, if pictures usually come in a third of that time."""


class Recorder:
    """Writes pictures to a file, which begins with the first of them.

    All have the first one's size (one more row or column where that is odd): one of another size is fitted
    into it, in its own shape, with black beside it. Where a live source is silent or lost, the last picture
    is added every second, darkened, with what has happened and the time. All calls come from one thread.

    Args:
        file: where to.
        live: whether times are the clock's (`time.monotonic`) rather than the medium's.
        rate: frames a second that the source claims; used only where a file can have no other times.
        began: called when the file has been opened.
    """

    def __init__(
        self, file: OutputFile, *, live: bool, rate: float | None, began: Callable[[], None]
    ) -> None:
        self._file, self._live, self._rate, self._began = file, live, rate, began
        self._writer: AvWriter | OpencvWriter | None = None
        self._size = (0, 0)
        self._canvas: Image = np.empty((0, 0, 3), np.uint8)
        self._shown: Image | None = None
        self._first = self._last = 0.0
        self._usual = 0.0  # seconds between two pictures
        self._lost = ""
        self._dark: Image | None = None

    def picture(self, image: Image, when: float) -> None:
        """One picture, at `when` seconds. It is kept until the next one comes."""
        if self._writer is None:
            self._begin(image, when)
        elif not self._dark_now():
            self._usual += (when - self._last - self._usual) * (0.1 if self._usual else 1.0)
        self._lost, self._dark = "", None
        self._last = when
        self._shown = self._fitted(image)
        self._put(self._shown, when)

    def lost(self, text: str) -> None:
        """From here on the source is lost, until the next picture."""
        self._lost = text
        self._show_silence()

    def tick(self) -> None:
        """Called every second in which nothing came."""
        silent = time.monotonic() - self._last
        if self._live and (self._lost or silent > max(_SILENCE, 3 * self._usual)):
            self._show_silence()

    def close(self) -> None:
        """The file is whole afterwards."""
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        """After a failure: what was written stays as it is."""
        if self._writer is not None:
            self._writer.abandon()

    def _begin(self, image: Image, when: float) -> None:
        height, width = image.shape[:2]
        self._size = (height + height % 2, width + width % 2)  # 4:2:0 has half as many of colour
        self._canvas = np.zeros((*self._size, 3), np.uint8)
        self._first = self._last = when
        self._file.begin()
        self._began()
        suffix = self._file.target.suffix.lower()
        if suffix == ".avi" or not have_pyav():
            self._writer = OpencvWriter(self._file.path, self._size, rate=self._rate, live=self._live)
        else:
            self._writer = AvWriter(self._file.write, suffix, self._size, None if self._live else self._rate)

    def _put(self, image: Image, when: float) -> None:
        assert self._writer is not None
        self._writer.write(image, when - self._first)

    def _fitted(self, image: Image) -> Image:
        """`image` if it has the recording's size, else the canvas with it in the middle."""
        if image.shape[:2] == self._size:
            return image
        height, width = image.shape[:2]
        scale = min(self._size[0] / height, self._size[1] / width)
        if self._size[0] - height in (0, 1) and self._size[1] - width in (0, 1):
            scale = 1.0
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        y, x = (self._size[0] - h) // 2, (self._size[1] - w) // 2
        self._canvas[...] = 0
        part = self._canvas[y : y + h, x : x + w]
        if (h, w) == (height, width):
            part[...] = image
        else:
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            part[...] = cv2.resize(image, (w, h), interpolation=method)
        return self._canvas

    def _dark_now(self) -> bool:
        return self._dark is not None

    def _show_silence(self) -> None:
        if self._shown is None:
            return
        now = time.monotonic()
        if self._dark is None:
            self._dark = self._shown // 3
        image = self._dark.copy()
        height, width = image.shape[:2]
        style = Style(height, width)
        text = self._lost or f"no picture for {now - self._last:.0f} s"
        clock = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        draw_label(image, text, (0, height), _RED, style)
        draw_label(image, clock, (0, height - style.plate), _RED, style)
        self._put(image, now)


def have_pyav() -> bool:
    """Whether PyAV is installed."""
    try:
        load()
    except MissingDependency:
        return False
    return True
