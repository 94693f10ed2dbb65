"""Writing whole files or none: made in a hidden folder beside their place, then moved there by a rename.

Several processes may write into one folder, also from several containers or machines that see it under
different process numbers. So names are random, and who lives is told by a lock on a file in the hidden
folder: the system drops it when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgedet.contract.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and so nothing is ever taken for dead
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX, _LOCK = ".edgedet-", ".partial", ".lock"


@contextlib.contextmanager
def private_folder(parent: Path, purpose: str = "write") -> Iterator[Path]:
    """A hidden folder in `parent` (made where needed) that is this block's own; removed at its end.

    It is called `.edgedet-PURPOSE.RANDOM.partial`.

    What processes left there that ended without cleaning up is removed first; what is in use, by whatever
    process on whatever machine, stays. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}.", suffix=_SUFFIX, dir=parent))
        # another process may see the folder before it is locked, take it for left over and remove it
        lock = _locked(folder, wait=True)
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers(parent: Path, *, deep: bool = False) -> None:
    """Remove the hidden folders in `parent` that no living process holds; `deep`: in all folders below too.

    Raises OSError: `parent` cannot be read.
    """
    with os.scandir(parent) as entries:
        folders = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    for folder in folders:
        with contextlib.suppress(OSError):  # not ours to open, or on a file system without locks
            if folder.name.startswith(_PREFIX) and folder.name.endswith(_SUFFIX):
                lock = _locked(folder, wait=False) if fcntl else None
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)
            elif deep:
                remove_leftovers(folder, deep=True)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """The descriptor of the folder's lock, held until it is closed; None if the folder is gone.

    Raises OSError: without `wait`, another process holds it, or this file system has no locks. With
    `wait`, those are no errors: the lock is not held then.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if not wait:
            os.close(lock)
            raise
    try:
        # whoever held the lock before may have removed the folder
        if (folder / _LOCK).stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except FileNotFoundError:
        pass
    os.close(lock)
    return None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; moved to `path` when the block ends well, removed otherwise.

    It has the name of the real one (libraries choose a format by it). The file gets the mode that `open`
    would have given it. A link is followed: what it leads to is replaced, the link stays.

    Raises OutputError when the folder cannot be made or written, the disk is full, or `path` is
    something else than a file.
    """
    try:
        target = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            kind = "is a folder" if path.is_dir() else "is a device or pipe"
            raise OutputError(f"Cannot write {path}: it {kind}.", hint="Name a file.")
        with private_folder(target.parent) as folder:
            temporary = folder / target.name
            yield temporary
            finish_file(temporary)
            temporary.replace(target)
    except OSError as e:
        raise output_error(path, e) from e


def finish_file(path: Path) -> None:
    """Give a file in a private folder the mode that `open` gives, and its bytes to the disk.

    Some libraries make files that only their owner may read. Raises OSError.
    """
    with path.open("rb") as f:
        os.fsync(f.fileno())
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE((path.parent / _LOCK).stat().st_mode)
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write all of `data` to `path`, or leave what was there. Text is written as `encoded` says."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data if isinstance(data, bytes) else encoded(data))


def encoded(text: str) -> bytes:
    """Text as UTF-8. What UTF-8 cannot hold (from file names that are none) becomes an escape."""
    return text.encode("utf-8", "backslashreplace")


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
