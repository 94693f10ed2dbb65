"""Video files by PyAV: every frame with its own time, and readable while they are written."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from edgedet.contract.errors import MissingDependency, SinkError
from edgedet.contract.frames import Image

_CODEC = "mpeg4"  # MPEG-4 part 2: in every FFmpeg, and free of the GPL, which x264 is under
_QUALITY = 4  # quantiser, 1 (best) to 31
_BASE = Fraction(1, 60_000)  # of a second: exact for 24, 25, 29.97, 30, 50, 59.94 and 60 frames a second
_KEYFRAME_EVERY = 25
_FRAGMENT = 500_000  # microseconds of media that are written at a time, and lost by a kill
_LAMBDA = 118  # FFmpeg's unit of quality: FF_QP2LAMBDA


class AvWriter:
    """One video in fragmented MP4 or QuickTime (ISO 14496-12, 8.8): each fragment is whole by itself.

    So whatever ends the process, what was written plays, all but the last half second.

    Args:
        emit: takes the file's bytes, whole fragments at a time.
        suffix: ".mp4" or ".mov".
        size: (height, width), both even.
        rate: that the source claims; it says only for how long the last frame is shown.
    """

    variable_rate = True

    def __init__(
        self, emit: Callable[[memoryview], None], suffix: str, size: tuple[int, int], rate: float | None
    ) -> None:
        """Raises MissingDependency without PyAV."""
        av = load()
        self._av = av
        self._emit = emit
        self._buffer = bytearray()
        options = {
            "movflags": "empty_moov+default_base_moof+frag_keyframe",
            "frag_duration": str(_FRAGMENT),
            "fflags": "+flush_packets",
            "video_track_timescale": str(_BASE.denominator),
        }
        try:
            self._container = av.open(_Bytes(self._buffer), "w", format=suffix[1:], options=options)
            stream: Any = self._container.add_stream(
                _CODEC,
                rate=Fraction(rate if rate and 0.01 <= rate <= 1000 else 25).limit_denominator(1001),
                options={"flags": "+qscale", "global_quality": str(_LAMBDA * _QUALITY)},
            )
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = _BASE
            stream.codec_context.gop_size = _KEYFRAME_EVERY
            stream.codec_context.thread_count = 1  # the network needs the others
            self._container.start_encoding()
        except av.FFmpegError as e:
            raise SinkError(f"PyAV cannot write a video of {size[1]}x{size[0]} pixels: {e}.") from e
        self._stream = stream
        self._planes = np.empty((size[0] * 3 // 2, size[1]), np.uint8)
        self._last = -1

    def write(self, image: Image, seconds: float) -> None:
        """One frame of the writer's size at `seconds`; times that do not increase are made to."""
        cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420, dst=self._planes)
        frame = self._av.VideoFrame.from_ndarray(self._planes, format="yuv420p")
        self._last = max(self._last + 1, round(seconds / _BASE))
        frame.pts, frame.time_base = self._last, _BASE
        self._mux(frame)

    def close(self) -> None:
        """The last fragment, and the index."""
        try:
            self._mux(None)
        finally:
            self.abandon()
        self._flush()

    def abandon(self) -> None:
        """Free everything, and write nothing more."""
        self._container.close()

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except self._av.FFmpegError as e:
            raise SinkError(f"PyAV cannot encode a frame: {e}.") from e
        self._flush()

    def _flush(self) -> None:
        if self._buffer:
            data = memoryview(bytes(self._buffer))
            self._buffer.clear()
            self._emit(data)


def load() -> Any:
    """PyAV. Raises MissingDependency where it is not installed."""
    try:
        import av
    except ImportError:
        raise MissingDependency(
            "PyAV", extra="av", purpose="A recording with real times that survives a kill"
        ) from None
    return av


class _Bytes:
    """What PyAV writes to."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)
