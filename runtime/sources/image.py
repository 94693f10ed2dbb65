"""Image files as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedet.contract.errors import EmptyDataset, ImageError, SourceError
from edgedet.contract.frames import Image, Notice
from edgedet.contract.image_files import read_image
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources.source import Source

_NAMED = 3


class Images(Source):
    """Images one after another, in the order given. Each has the size it has.

    One that cannot be decoded whole is passed over, with a notice, and counted; after the last `grab` raises
    SourceError if there were such (ImageError if it is the only image).

    Raises EmptyDataset if there is none.
    """

    def __init__(self, paths: Sequence[Path], *, name: str) -> None:
        if not paths:
            raise EmptyDataset(
                f"There are no images in {name}.", hint="JPEG, PNG, BMP, WebP and TIFF are read."
            )
        silence_opencv()
        self.name = name
        self.frames: int = len(paths)
        self.paths = tuple(paths)
        self._next = iter(paths)
        self._image: Image | None = None
        self._failures: list[tuple[Path, ImageError]] = []

    def grab(self) -> bool:
        """See Source. Decodes, since what cannot be decoded is no frame."""
        self._image = None
        for path in self._next:
            try:
                if not path.is_file():  # reading a pipe would wait for ever
                    raise ImageError(f"{path} is not a file.")
                self._image = read_image(path)
            except ImageError as e:
                self.lost += 1
                self._failures.append((path, e))
                if self.frames > 1:
                    self.notify(Notice(e.message, "damaged"))
                continue
            self.file = str(path)
            return True
        self._check_end()
        return False

    def retrieve(self, buffer: Image | None) -> Image:
        """See Source. Decoding allocates; the buffer is not used."""
        assert self._image is not None, "retrieve without grab"
        return self._image

    def _check_end(self) -> None:
        failures, self._failures = self._failures, []
        if not failures:
            return
        if self.frames == 1:
            raise failures[0][1]
        names = ", ".join(path.name for path, _ in failures[:_NAMED])
        more = f" and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        raise SourceError(
            f"{len(failures)} of {self.frames} images could not be read: {names}{more}.",
            hint="The results of the others are whole. Copy these again, or remove them.",
        )
