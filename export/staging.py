"""A hidden folder beside the results, in which they are made; only whole files leave it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from edgedet.contract.files import encoded, finish_file, output_error, private_folder


class Staging:
    """`with Staging(output) as staging:` make files in `staging.folder`, then `publish` them by name.

    The folder is this export's own (`edgedet.contract.files.private_folder`): nothing takes what is in it
    for a result. A process that dies in between leaves it, and the next export to the same place removes
    it. Raises OutputError, on entering, where `output` cannot be made or written: before any long work.
    """

    folder: Path
    """Between entering and leaving: where files are made."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._private: AbstractContextManager[Path] = private_folder(output, "export")

    def __enter__(self) -> Staging:
        try:
            self.folder = self._private.__enter__()
        except OSError as e:
            raise output_error(self.output, e) from e
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._private.__exit__(kind, error, trace)

    def write(self, name: str, data: bytes | str) -> Path:
        """Make a file in the hidden folder; returns its path there."""
        path = self.folder / name
        try:
            path.write_bytes(data if isinstance(data, bytes) else encoded(data))
        except OSError as e:
            raise output_error(self.output / name, e) from e
        return path

    def publish(self, name: str) -> Path:
        """Move a whole file to its final place, by a rename; returns its path there."""
        target = self.output / name
        try:
            finish_file(self.folder / name)
            (self.folder / name).replace(target)
        except OSError as e:
            raise output_error(target, e) from e
        return target
