"""Where frames come from: `open_source` tells a camera, a URL, a video file and images apart.

To add a source: a subclass of Source with `grab` and `retrieve`; live = True where frames come by themselves.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, Notice, YuvImage


class Source:
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

    def grab(self) -> bool:
        """Wait for the next frame; False at the end.

        Raises SourceError: what should have been there is not. What could be read is read before that.
        """
        raise NotImplementedError

    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """The pixels of the frame last grabbed: BGR, in `buffer` if it fits, or the decoder's planes.

        Not called for frames that are dropped. Raises like `grab`.
        """
        raise NotImplementedError

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


def open_source(target: str | int | Path, *, timeout: float = 5.0, reconnects: int = 5) -> Source:
    """Open what `target` names.

    Args:
        target: a camera's index or device ("0", "/dev/video0"); a URL (rtsp, http, ...); a video file; an
            image file, a folder of images, or a glob of images ("shots/*.jpg").
        timeout: seconds that a camera or URL may take to open, or to deliver the next frame, before it
            counts as unreachable or lost.
        reconnects: how often in a row a lost camera or URL is opened again, with growing pauses.

    Raises:
        SourceError: there is no such thing, or it cannot be opened. EmptyDataset: no images there.
    """
    text = str(target)
    if text.isdecimal():
        from edgedet.runtime.sources.live import Live

        return Live(int(text), timeout=timeout, reconnects=reconnects)
    if "://" in text:
        return _open_url(text, timeout, reconnects)
    path = Path(text).expanduser()
    if path.is_char_device():
        from edgedet.runtime.sources.live import Live

        return Live(str(path), timeout=timeout, reconnects=reconnects)
    return _open_path(path)


def _open_url(url: str, timeout: float, reconnects: int) -> Source:
    from edgedet.runtime.sources.live import Live
    from edgedet.runtime.sources.video import Video

    parts = urlsplit(url)
    if parts.scheme == "file":
        return _open_path(Path(parts.path))
    live = Live(url, timeout=timeout, reconnects=reconnects)
    if live.frames is None:
        return live
    live.close()  # a video on a web server: it has an end, and none of its frames may be dropped
    return Video(url, name=public_name(url), timeout=timeout)


def _open_path(path: Path) -> Source:
    from edgedet.contract.image_files import ENDINGS, list_images
    from edgedet.runtime.sources.image import Images
    from edgedet.runtime.sources.video import Video

    if path.is_dir():
        return Images(list_images(path), name=str(path))
    if path.is_file():
        if path.suffix.lower() in ENDINGS:
            return Images([path], name=str(path))
        return Video(path, name=path.name)
    if glob.has_magic(str(path)):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        return Images([p for p in found if p.suffix.lower() in ENDINGS], name=str(path))
    raise SourceError(
        f"There is no source {str(path)!r}.",
        hint="Give a camera index (0), a URL (rtsp://...), a video file, an image, a folder or a glob.",
    )


def public_name(url: str) -> str:
    """A URL without its user name and password, fit for logs and results."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
