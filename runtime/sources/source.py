"""Where frames come from: `open_source` tells a camera, a URL, a video file and images apart.

To add a source: a subclass of Source with `grab` and `retrieve`; live = True where frames come by themselves.
"""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, Notice, YuvImage
from edgedet.contract.numbers import check_count, check_number
from edgedet.runtime.sources.location import check_url, is_url, public_name, scheme

MAX_TIMEOUT = 86_400.0
"""Seconds; libraries count milliseconds in 32 bits."""


class Source(ABC):
    """Base of all sources. `grab` and `retrieve` are called from one thread, `stop` from any.

    Attributes:
        name: what results and reports call it, without passwords.
        live: frames come by themselves, and the newest counts.
        fps: the frame rate that it claims, None where it claims none.
        frames: how many there are, None where that is unknown.
        paths: the files it reads; no output may be one of them.
        media_time, file: of the frame last grabbed, as in `Frame`.
        lost: frames that came and could not be decoded.
        notify: where a source says what happened to it (lost, back, damaged), set by the pipeline.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frames: int | None = None
    paths: Sequence[Path] = ()
    media_time: float | None = None
    file: str = ""
    lost: int = 0
    notify: Callable[[Notice], None] = staticmethod(lambda notice: None)

    @abstractmethod
    def grab(self) -> bool:
        """Wait for the next frame; False at the end.

        Raises SourceError: what should have been there is not. What could be read is read before that.
        """

    @abstractmethod
    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """The pixels of the frame last grabbed: BGR, in `buffer` if it fits, or the decoder's planes.

        Not called for frames that are dropped. Raises like `grab`.
        """

    def read(self, buffer: Image | None = None) -> Image | None:
        """Grab and retrieve as BGR; None at the end."""
        if not self.grab():
            return None
        pixels = self.retrieve(buffer)
        return pixels.to_bgr(buffer) if isinstance(pixels, YuvImage) else pixels

    def stop(self) -> None:
        """Make a `grab` that waits return soon. From any thread or signal handler."""

    def close(self) -> None:
        """Free everything; a second call does nothing."""


def open_source(target: str | int | Path, *, timeout: float = 10.0, reconnects: int | None = None) -> Source:
    """Open what `target` names.

    Args:
        target: a camera's index or device ("0", "/dev/video0"); a URL (rtsp, http, ...); a video file; an
            image file, a folder of images, or a glob of images ("shots/*.jpg").
        timeout: seconds that a camera or URL may take to open, or to deliver the next frame, before it
            counts as unreachable or lost.
        reconnects: how often in a row a lost camera or URL is opened again, with growing pauses; None for
            as often as it takes. Unless it is 0, a URL that does not answer yet is waited for.

    Raises:
        SourceError: there is no such thing, it cannot be opened, or its protocol may not be. EmptyDataset:
            no images there. UsageError: a timeout or a number of tries that cannot be meant.
    """
    check_number("timeout", timeout, above=True, most=MAX_TIMEOUT)
    check_count("reconnects", reconnects, least=0)
    text = str(target)
    if text.isdecimal():
        from edgedet.runtime.sources.live import Live

        return Live(int(text), timeout=timeout, reconnects=reconnects)
    if is_url(text):
        return _open_url(text, timeout, reconnects)
    path = Path(text).expanduser()
    return _open_path(path, timeout, reconnects)


def _open_url(url: str, timeout: float, reconnects: int | None) -> Source:
    from edgedet.runtime.sources.live import Live
    from edgedet.runtime.sources.reader import NotThere, open_reader
    from edgedet.runtime.sources.video import Video

    check_url(url)
    if scheme(url) == "file":
        return _open_path(Path(unquote(urlsplit(url).path)), timeout, reconnects)
    try:
        reader = open_reader(url, timeout=timeout)
    except NotThere as e:
        if reconnects == 0:
            raise SourceError(e.message, hint=e.hint) from None
        return Live(url, timeout=timeout, reconnects=reconnects, absent=e)
    if reader.endless:
        return Live(url, timeout=timeout, reconnects=reconnects, reader=reader)
    # a video on a web server: it has an end, and none of its frames may be dropped
    return Video(url, name=public_name(url), reader=reader, timeout=timeout)


def _open_path(path: Path, timeout: float, reconnects: int | None) -> Source:
    from edgedet.contract.image_files import ENDINGS, list_images
    from edgedet.runtime.sources.image import Images
    from edgedet.runtime.sources.live import Live
    from edgedet.runtime.sources.reader import is_camera
    from edgedet.runtime.sources.video import Video

    name = public_name(path)
    try:
        if path.is_dir():
            return Images(list_images(path), name=name)
        if path.is_file():
            if path.suffix.lower() in ENDINGS:
                return Images([path], name=name)
            return Video(path, name=path.name)
        if is_camera(path):
            return Live(str(path), timeout=timeout, reconnects=reconnects)
        if path.exists():
            raise SourceError(
                f"{name} is neither a file nor a folder nor a camera.",
                hint="A pipe or another device cannot be a source.",
            )
    except (OSError, ValueError) as e:  # no permission, a name too long, a zero byte
        reason = (getattr(e, "strerror", None) or str(e)).lower()
        raise SourceError(f"The source {name!r} cannot be opened: {reason}.") from None
    if glob.has_magic(str(path)):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        return Images([p for p in found if p.suffix.lower() in ENDINGS], name=name)
    raise SourceError(
        f"There is no source {name!r}.",
        hint="Give a camera index (0), a URL (rtsp://...), a video file, an image, a folder or a glob.",
    )
