"""Image files as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedet.contract.errors import EmptyDataset
from edgedet.contract.frames import Image
from edgedet.contract.image_files import read_image
from edgedet.runtime.opencv_log import silence_opencv
from edgedet.runtime.sources.source import Source


class Images(Source):
    """Images one after another, in the order given. Each has the size it has.

    Raises EmptyDataset if there is none; `retrieve` raises ImageError for one that cannot be decoded whole.
    """

    def __init__(self, paths: Sequence[Path], *, name: str) -> None:
        if not paths:
            raise EmptyDataset(
                f"There are no images in {name}.", hint="JPEG, PNG, BMP, WebP and TIFF are read."
            )
        silence_opencv()
        self.name = name
        self.frames = len(paths)
        self._paths = iter(paths)
        self._path: Path | None = None

    def grab(self) -> bool:
        """See Source."""
        self._path = next(self._paths, None)
        return self._path is not None

    def retrieve(self, buffer: Image | None) -> Image:
        """See Source. Decoding allocates; the buffer is not used."""
        assert self._path is not None, "retrieve without grab"
        return read_image(self._path)
