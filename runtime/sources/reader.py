"""One opened video file or stream, by whichever library is installed: what `Video` and `Live` read from.

PyAV (the extra `av`) is preferred: it says why something failed, delivers frames in their own size, and
hands out the decoder's planes. OpenCV reads where it is absent, and cameras by index or device.
"""

from __future__ import annotations

import importlib
import os
import socket
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, YuvImage
from edgedet.runtime.hardware import cores
from edgedet.runtime.sources.location import public_name

MAX_PIXELS = 100_000_000
"""Of one frame. A header of a few bytes may claim any size, and memory for it is taken before it is read."""

TRIES = 32
"""Frames in a row that may be corrupt; also more than a decoder can hold back (16 in H.264)."""

FILE_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h263,h264,hevc,vvc,av1,obu,ivf,flv,asf,ogg,gif,apng,"
    "mjpeg,mxf,nut,dv,rm,yuv4mpegpipe,vc1,wtv,mpjpeg"
)
"""Of FFmpeg's, those that hold their video themselves: not playlists, which open other files and hosts, and
not those that take any text for a picture."""

STREAM_FORMATS = f"{FILE_FORMATS},rtsp,sdp,rtp,rtp_mpegts,hls,dash,live_flv,jpeg_pipe,png_pipe"

STREAM_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,rtmp,rtmps,rtmpt,rtmpts,srt,crypto"
"""Those of FFmpeg that a stream, and what it refers to, may use."""

Location = int | str | Path
"""A camera's index, a URL or device, or a file."""


class NotThere(SourceError):
    """A stream that cannot be reached now and may be there later: refused, silent, its host unknown."""


class Reader(ABC):
    """Frames of one file or connection. All calls from one thread.

    Attributes:
        fps: the rate that it claims, None where it claims none.
        frames: how many it announces, None where it does not.
        counted: whether that is a count, rather than an estimate from how long it lasts.
        endless: whether it goes on for as long as someone reads: it announces no end.
        lost: frames that came and could not be decoded.
        media_time: of the frame last grabbed, as in `Frame`.
        size: (height, width) of the frame last grabbed, None where it is not known before `retrieve`.
    """

    fps: float | None = None
    frames: int | None = None
    counted: bool = False
    endless: bool = False
    lost: int = 0
    media_time: float | None = None
    size: tuple[int, int] | None = None

    @abstractmethod
    def grab(self) -> bool:
        """Wait for the next frame; False at the end. Raises SourceError: nothing came in time."""

    @abstractmethod
    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """The frame last grabbed, as in `Source`."""

    def missing(self, read: int) -> int:
        """At the end: how many frames that it announced have not come, where that is certain."""
        return 0

    def close(self) -> None:
        """Free everything; a second call does nothing."""


def open_reader(location: Location, *, timeout: float) -> Reader:
    """Open a video file, a stream or a camera.

    Raises:
        NotThere: nothing answers, within `timeout` seconds.
        SourceError: it answers, and cannot be read.
    """
    if isinstance(location, int) or (isinstance(location, str) and location.startswith("/dev/")):
        from edgedet.runtime.sources.backend_opencv import OpenCVReader

        return OpenCVReader(location, timeout=timeout)
    module = av_backend()
    if module is not None:
        return module.AvReader(location, timeout=timeout)  # type: ignore[no-any-return]
    from edgedet.runtime.sources.backend_opencv import OpenCVReader

    return OpenCVReader(location, timeout=timeout)


def av_backend() -> Any:
    """The module that wraps PyAV; None where PyAV is not installed."""
    try:
        return importlib.import_module("edgedet.runtime.sources.backend_av")
    except ImportError:
        return None


def decoder_threads(location: Location) -> int:
    """One for streams: several hold back as many frames. A file may have more, which cost more CPU in all."""
    return max(1, cores() // 4) if isinstance(location, Path) else 1


def shown(location: Location) -> str:
    """What messages call it."""
    if isinstance(location, int):
        return f"camera {location}"
    return f"the video {location.name}" if isinstance(location, Path) else public_name(location)


def check_pixels(location: Location, height: int, width: int) -> None:
    """Raises SourceError: its frames have more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise SourceError(
            f"The frames of {shown(location)} are said to be {width}x{height}, more than the "
            f"{MAX_PIXELS // 1_000_000} million pixels that are read.",
            hint="It is damaged, or must be scaled down first.",
        )


def is_camera(path: Path) -> bool:
    """Whether a path is a camera's device (Video4Linux); opening another device may do anything."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) == 81


def unreachable(location: str, timeout: float) -> NotThere | None:
    """Why the host of a URL cannot be reached; None if it can be, or if that cannot be told."""
    from urllib.parse import urlsplit

    name, ports = public_name(location), {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
    parts = urlsplit(location)
    port = parts.port or ports.get(parts.scheme.lower())
    if not parts.hostname or port is None or parts.scheme.lower() in ("srt", "udp", "rtp"):
        return None
    hint = "Check the address, and that the camera is on."
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
    except socket.gaierror:
        return NotThere(f"Cannot open {name}: no such host.", hint=hint)
    except ConnectionRefusedError:
        return NotThere(f"Cannot open {name}: it refuses the connection; nothing listens there.", hint=hint)
    except TimeoutError:
        return NotThere(f"Cannot open {name}: no answer within {timeout:g} s.", hint=hint)
    except OSError as e:
        return NotThere(f"Cannot open {name}: {e.strerror or type(e).__name__}.", hint=hint)
    return None
