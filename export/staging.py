"""A hidden folder beside the results, in which they are made; only whole files leave it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from types import TracebackType

from edgedet.contract.files import output_error

_NAME = re.compile(r"^\.edgedet-export\.(\d+)\.partial$")


class Staging:
    """`with Staging(output) as staging:` make files in `staging.folder`, then `publish` them by name.

    A process that dies in between leaves a folder `.edgedet-export.PID.partial`, which nothing takes for
    a result; the next export to the same place removes it. Raises OutputError, on entering, where
    `output` cannot be made or written: before any long work.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / f".edgedet-export.{os.getpid()}.partial"

    def __enter__(self) -> Staging:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.output)
            self.folder.mkdir(exist_ok=True)
            probe = self.folder / "probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as e:
            raise output_error(self.output, e) from e
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name: str, data: bytes | str) -> Path:
        """Make a file in the hidden folder; returns its path there."""
        path = self.folder / name
        try:
            with path.open("wb") as f:
                f.write(data.encode() if isinstance(data, str) else data)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise output_error(self.output / name, e) from e
        return path

    def publish(self, name: str, *, under: str = "") -> Path:
        """Give a whole file its final name, by a rename; returns its final path."""
        target = self.output / (under or name)
        try:
            (self.folder / name).replace(target)
        except OSError as e:
            raise output_error(target, e) from e
        return target


def _remove_stale(output: Path) -> None:
    """Remove what dead exports left; folders of living processes stay."""
    for path in output.glob(".edgedet-export.*.partial"):
        match = _NAME.match(path.name)
        if match and not _alive(int(match.group(1))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
