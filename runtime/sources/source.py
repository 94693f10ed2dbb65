"""Where frames come from: `open_source` tells a camera, a URL, a video file and images apart.

To add a source: a subclass of Source with `grab` and `retrieve`; live = True where frames come by themselves.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import SourceError

Image: TypeAlias = npt.NDArray[np.uint8]


class Source:
    """Base of all sources. `grab` and `retrieve` are called from one thread, `stop` from any.

    name: what results and reports call it; live: frames come by themselves and the newest counts; fps:
    its own frame rate, None where it has none; frames: how many there are, None where that is unknown;
    notify: where a live source says that it was lost or found, set by the pipeline.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frames: int | None = None
    notify: Callable[[str], None] = staticmethod(lambda text: None)

    def grab(self) -> bool:
        """Wait for the next frame; False at the end.

        Raises SourceError, or ImageError for an image file: what should have been there is not.
        """
        raise NotImplementedError

    def retrieve(self, buffer: Image | None) -> Image:
        """The pixels of the frame last grabbed, (H, W, 3) uint8 BGR: in `buffer` if it fits, else new.

        Not called for frames that are dropped. Raises like `grab`.
        """
        raise NotImplementedError

    def read(self, buffer: Image | None = None) -> Image | None:
        """Grab and retrieve; None at the end."""
        return self.retrieve(buffer) if self.grab() else None

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
