"""Video files and streams by PyAV (FFmpeg's libraries). The only file that imports it."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from edgedet.contract.colour import Matrix
from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, YuvImage
from edgedet.runtime.sources.location import public_name, scheme
from edgedet.runtime.sources.reader import (
    FILE_FORMATS,
    MAX_PIXELS,
    STREAM_FORMATS,
    STREAM_PROTOCOLS,
    TRIES,
    NotThere,
    Reader,
    check_pixels,
    decoder_threads,
    shown,
    unreachable,
)

av.logging.set_level(None)  # not through Python's logging, which may dead-lock with decoding threads
av.logging.set_libav_level(-8)  # AV_LOG_QUIET

_OPEN = {
    # what opening may cost: FFmpeg takes 5 s by default. What it reads meanwhile is kept and delivered, for
    # which reason there is no "nobuffer": that throws away the key frame, and the picture up to the next
    "analyzeduration": "500000",
    "probesize": "1000000",
    "fpsprobesize": "0",
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",
}

_JPEG_END = b"\xff\xd9"
_MATRICES: dict[int, Matrix] = {1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
_SWS = {"bt709": 1, "bt601": 5, "bt2020": 9}
_STUDIO, _FULL = 1, 2
_SCALING = 2 | 0x2000 | 0x40000
"""SWS_BILINEAR, SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND: without the two it is more than a grey level off."""

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


class AvReader(Reader):
    """See Reader. Frames in their own size; 8-bit 4:2:0 as planes, others as BGR."""

    def __init__(self, location: Path | str, *, timeout: float) -> None:
        self._location = location
        self._timeout = timeout
        options = {"max_pixels": str(MAX_PIXELS)}
        if isinstance(location, Path):
            options |= {"protocol_whitelist": "file", "format_whitelist": FILE_FORMATS}
            where, wait = f"file:{location.absolute()}", None
        else:
            options |= {"protocol_whitelist": STREAM_PROTOCOLS, "format_whitelist": STREAM_FORMATS, **_OPEN}
            where, wait = location, (timeout, timeout)
        began = time.monotonic()
        try:
            self._container: Any = av.open(where, options=options, timeout=wait, metadata_errors="replace")
        except (av.FFmpegError, UnicodeError) as e:
            raise _failure(location, e, time.monotonic() - began, timeout) from None
        self._ready: deque[Any] = deque()
        self._frame: Any = None
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        self._ended = False
        self._good = False  # a stream entered between two key frames begins with what cannot be decoded
        self._packets_read = self._errors = 0
        self._packets: Iterator[Any] = self._container.demux(self._stream)

    def _set_up(self) -> None:
        container, location = self._container, self._location
        stream = self._stream = container.streams.best("video")
        if stream is None:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            raise SourceError(
                f"There is no video in {shown(location)}, only {', '.join(kinds)}.",
                hint="Give one with a picture.",
            )
        codec = stream.codec_context
        if codec is None:
            raise SourceError(
                f"Nothing here can decode the video codec of {shown(location)}.",
                hint="Encode it as H.264, or install another build of PyAV.",
            )
        check_pixels(location, codec.height, codec.width)
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        codec.thread_count = decoder_threads(location)
        codec.thread_type = "AUTO"
        self._jpeg_parts = container.format.name == "mpjpeg"
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        duration = (
            stream.duration * stream.time_base
            if stream.duration and stream.time_base
            else container.duration / 1e6
            if container.duration
            else None
        )
        if stream.frames > 0:
            self.frames, self.counted = stream.frames, True
        elif duration and rate:
            self.frames = max(1, round(float(duration * float(rate))))
        sized = "file" not in scheme(str(location)) and container.size > 0
        self.endless = not isinstance(location, Path) and (
            self._jpeg_parts or not (duration or (sized and scheme(str(location)).startswith("http")))
        )
        if self.endless:
            self.frames = None
        self._start = stream.start_time

    def grab(self) -> bool:
        """See Reader."""
        began = time.monotonic()
        while not self._ready:
            if self._ended:
                return False
            self._feed()
            if self.endless and not self._ready and time.monotonic() - began > self._timeout:
                raise SourceError(f"nothing that can be decoded came for {self._timeout:g} s.")
        frame = self._frame = self._ready.popleft()
        turned = frame.rotation % 180 == 90
        self.size = (frame.width, frame.height) if turned else (frame.height, frame.width)
        if not self.endless:
            at = None if frame.pts is None or frame.time_base is None else frame.pts - (self._start or 0)
            self.media_time = None if at is None else float(at * frame.time_base)
        return True

    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """See Reader. Planes are views of the decoder's own memory; BGR is made in `buffer` if it fits."""
        frame = self._frame
        assert frame is not None, "retrieve without grab"
        turn = _TURNS.get(frame.rotation % 360)
        matrix, full = _matrix(frame), _is_full(frame)
        if frame.format.name in ("yuv420p", "yuvj420p") and all(p.line_size > 0 for p in frame.planes):
            y, u, v = (_view(p) for p in frame.planes)
            if turn is not None:
                y, u, v = (np.asarray(cv2.rotate(p, turn), np.uint8) for p in (y, u, v))
            return YuvImage(y, u, v, matrix, full, owner=frame)
        return _bgr(frame, matrix, full, turn, buffer)

    def missing(self, read: int) -> int:
        """See Reader."""
        index = getattr(self._stream, "index_entries", ())
        moves = self._container.format.name.startswith("mov") and self._ended
        return max(0, len(index) - self._packets_read) if moves and isinstance(self._location, Path) else 0

    def close(self) -> None:
        """See Reader."""
        self._packets, self._frame = iter(()), None
        self._ready.clear()
        self._container.close()

    def _feed(self) -> None:
        """The next packet into the decoder, and what comes out of it into `_ready`."""
        try:
            packet = next(self._packets)
            self._errors = 0
        except StopIteration:
            self._ended = True
            return
        except av.FFmpegError as e:
            self._errors += 1
            if isinstance(self._location, Path):
                self._ended = self._errors >= TRIES
                self.lost += self._errors == 1
                self._packets = self._container.demux(self._stream)
                return
            if isinstance(e, (av.ExitError, TimeoutError)):
                raise SourceError(f"nothing came for {self._timeout:g} s.") from None
            raise SourceError(f"{_reason(e)}.") from None
        flush = packet.size == 0
        self._packets_read += not flush
        if self._jpeg_parts and not flush and _JPEG_END not in bytes(memoryview(packet)[-512:]):
            self.lost += 1  # a JPEG without its end mark: half of it would be grey
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self.lost += self._good
            return
        finally:
            self._ended = flush
        # not asked: whether a frame is marked corrupt, which depends on how the threads' work falls together
        self._good = self._good or bool(frames)
        self._ready.extend(frames)


def _view(plane: Any) -> Any:
    """(H, W) uint8 of a plane, without its padding."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _bgr(frame: Any, matrix: Matrix, full: bool, turn: int | None, buffer: Image | None) -> Image:
    """(H, W, 3) uint8 BGR by swscale."""
    colours = {}
    if not frame.format.is_rgb:
        colours = {
            "src_colorspace": _SWS[matrix],
            "src_color_range": _FULL if full else _STUDIO,
            "dst_color_range": _FULL,
        }
    plane = frame.reformat(format="bgr24", interpolation=_SCALING, threads=1, **colours).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : 3 * frame.width]
    image: Image = rows.reshape(frame.height, frame.width, 3)
    if turn is not None:
        return np.asarray(cv2.rotate(image, turn), np.uint8)
    if buffer is None or buffer.shape != image.shape:
        buffer = np.empty((frame.height, frame.width, 3), np.uint8)
    np.copyto(buffer, image)
    return buffer


def _matrix(frame: Any) -> Matrix:
    """What the frame says; where it does not, BT.709 for high definition, as players take it."""
    return _MATRICES.get(
        int(frame.colorspace), "bt709" if max(frame.height, frame.width) >= 1280 else "bt601"
    )


def _is_full(frame: Any) -> bool:
    """Unspecified is the studio range, but for JPEG and grey."""
    name = frame.format.name
    return int(frame.color_range) == _FULL or (
        int(frame.color_range) != _STUDIO and name.startswith(("yuvj", "gray", "ya"))
    )


def _reason(error: Exception) -> str:
    """An error of FFmpeg in words, without the address that its own text contains."""
    if getattr(error, "errno", None) == errno.EIO:
        return "the connection broke off"
    return str(getattr(error, "strerror", None) or type(error).__name__).lower()


def _failure(location: Path | str, error: Exception, seconds: float, timeout: float) -> SourceError:
    """What to say of a location that cannot be opened."""
    if isinstance(location, Path):
        unknown = isinstance(error, av.InvalidDataError) or getattr(error, "errno", None) == errno.EINVAL
        return SourceError(
            f"Cannot open {shown(location)} ({location.stat().st_size} bytes): "
            f"{'it holds no video that can be read' if unknown else _reason(error)}.",
            hint="It may be truncated, or of a kind that FFmpeg does not read.",
        )
    start = f"Cannot open {public_name(location)}:"
    name, code = type(error).__name__, getattr(error, "errno", None)
    if name in ("HTTPUnauthorizedError", "HTTPForbiddenError"):
        asked = "401" if name.startswith("HTTPUn") else "403"
        return SourceError(f"{start} it does not let us in ({asked}).", hint="Check user name and password.")
    if name == "HTTPNotFoundError":
        return SourceError(f"{start} the host has no such stream (404).", hint="Check the path.")
    if name in ("HTTPBadRequestError", "HTTPOtherClientError"):
        return SourceError(
            f"{start} the host refuses the request ({_reason(error)}).", hint="Check the path."
        )
    if isinstance(error, (av.ExitError, TimeoutError)):
        return NotThere(
            f"{start} no answer within {timeout:g} s.",
            hint="Check the address, and that the camera is on; a slow one needs a longer timeout.",
        )
    if name in ("ProtocolNotFoundError", "DemuxerNotFoundError") or code == errno.EINVAL:
        return SourceError(f"{start} {_reason(error)}.", hint="Check the address.")
    if isinstance(error, ConnectionRefusedError) or code in (errno.EIO, errno.ENOENT):
        found = unreachable(location, max(1.0, timeout - seconds))
        if found is not None:
            return found
    if isinstance(error, av.InvalidDataError) and not isinstance(error, EOFError):
        return SourceError(f"{start} what it sends is no video that can be read.", hint="Check the path.")
    return NotThere(f"{start} {_reason(error)}.", hint="Check the address, and that the camera is on.")
