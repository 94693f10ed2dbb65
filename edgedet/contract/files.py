"""Writing whole files or none: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from edgedet.contract.errors import OutputError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it when the block ends well, removed otherwise.

    The temporary name ends like the real one (libraries choose a format by it). Raises OutputError when
    the folder cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise output_error(path, e) from e


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write all of `data` (text as UTF-8) to `path`, or leave what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def output_error(path: Path, error: OSError) -> OutputError:
    """An OSError of writing `path` as the named error it is."""
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"The disk is full: could not write {path}.", hint="Free some space and run again."
        )
    reason = error.strerror or str(error)
    return OutputError(
        f"Cannot write {path}: {reason}.", hint="Choose another folder with -o, or make it writable."
    )
