"""A video file, or a video with an end on a server, as a source."""

from __future__ import annotations

from pathlib import Path

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, Notice, YuvImage
from edgedet.runtime.sources.containers import missing_bytes, names_other_files
from edgedet.runtime.sources.reader import MAX_PIXELS, Reader, open_reader
from edgedet.runtime.sources.source import Source


class Video(Source):
    """All frames of a video, or an error that says where they end too early.

    A corrupt frame is passed over and those after it are still delivered. FFmpeg does not say why it
    delivers no further frame, so at the end what came is compared with what the container announced, where
    that is certain: bytes, or frames of MP4 and MOV. How long it lasts is not: sound may be longer.

    Args:
        location: a file, or the URL of one.
        name: what results call it.
        reader: the opened location, if it is open already.
        timeout: seconds a URL may take to open or to deliver.

    Raises SourceError: it cannot be opened, or is a playlist. Its frames have more than 100 million pixels.
    """

    def __init__(
        self, location: str | Path, *, name: str, reader: Reader | None = None, timeout: float = 10.0
    ) -> None:
        self.name = name
        self._location = location
        if isinstance(location, Path):
            self.paths = (location,)
            self.file = str(location)
            _check_file(location)
        self._reader = reader or open_reader(location, timeout=timeout)
        self.fps = self._reader.fps
        self.frames = self._reader.frames
        self._read = 0
        self._offset = 0.0
        self._first_lost: int | None = None
        self._size: tuple[int, int] | None = None

    def grab(self) -> bool:
        """See Source. Raises SourceError where frames were missing, after the last one."""
        reader = self._reader
        try:
            came = reader.grab()
        except SourceError as e:  # of a server
            what = f"{self.name} ends after {self._read} frames: {e.message}"
            hint = "" if self._read else "Does its server send parts of files? An index at its end needs it."
            raise SourceError(what, hint=e.hint or hint) from None
        if reader.lost > self.lost:
            self._first_lost = self._read if self._first_lost is None else self._first_lost
            self.lost = reader.lost
        if not came:
            self._check_end()
            return False
        self._read += 1
        self._set_time(reader.media_time)
        size, self._size = self._size, reader.size
        if size is not None and self._size is not None and size != self._size:
            height, width = self._size
            self.notify(Notice(f"from frame {self._read - 1} on {self.name} is {width}x{height}", "size"))
        return True

    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """See Source."""
        return self._reader.retrieve(buffer)

    def close(self) -> None:
        """See Source."""
        self._reader.close()

    def _set_time(self, at: float | None) -> None:
        """Media time runs on where a joined file begins anew."""
        if at is None:
            self.media_time = None
            return
        if self.media_time is not None and at + self._offset < self.media_time - 1:
            self._offset = self.media_time + 1 / (self.fps or 25.0) - at
        self.media_time = at + self._offset

    def _check_end(self) -> None:
        if not self._read:
            raise SourceError(
                f"No frame of the video {self.name} can be decoded.",
                hint="It may be damaged, or its frames have more than "
                f"{MAX_PIXELS // 1_000_000} million pixels.",
            )
        location, total = self._location, self.frames
        count = max(self.lost, self._reader.missing(self._read))
        absent = missing_bytes(location) if isinstance(location, Path) else 0
        if not self._reader.counted:
            total = None
        if absent and total is not None:
            count = max(count, total - self._read)
        if count or absent:
            near = self._read if self._first_lost is None else self._first_lost
            of = "" if total is None else f" of {max(total, self._read + count)}"
            why = (
                f"truncated, {'its end is' if absent == 1 else f'{absent} bytes are'} missing"
                if absent
                else "damaged or truncated"
            )
            raise SourceError(
                f"{count or 'Some'}{of} frames of the video {self.name} are missing or corrupt, the first "
                f"near frame {near}: it is {why}.",
                hint="The results of the other frames are whole. Copy or encode the file again.",
            )


def _check_file(path: Path) -> None:
    try:
        playlist = names_other_files(path)
    except OSError as e:
        raise SourceError(f"Cannot read the video {path}: {e.strerror or e}.") from None
    if not path.stat().st_size:
        raise SourceError(f"The video {path.name} is empty (0 bytes).", hint="Copy it again.")
    if playlist:
        raise SourceError(
            f"{path.name} is a playlist, which names other files or hosts.", hint="Give the video itself."
        )
