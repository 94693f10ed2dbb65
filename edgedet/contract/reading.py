"""Reading a file whole: only regular files, of a size that has a limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    A fifo, which would wait for a writer, a device, which may never end, and a folder are not opened.

    Raises:
        OSError: it is absent, no regular file, or its name cannot be a file's.
    """
    try:
        _expect_regular(path, path.stat().st_mode)
        # a fifo may have taken the file's place meanwhile: without this, opening it would wait
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as e:  # a null byte
        raise OSError(errno.EINVAL, str(e), str(path)) from None
    f = os.fdopen(descriptor, "rb")
    try:
        _expect_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        f.close()
        raise
    return f


def read_bytes(path: Path, limit: int, *, count: int = -1) -> bytes:
    """The bytes of a regular file, the first `count` of them if given.

    Args:
        path: the file.
        limit: bytes that it may have at most; not looked at if only `count` are read.
        count: how many bytes are wanted; all by default.

    Raises:
        OSError: as `open_regular`, or it is larger than `limit`.
    """
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        if count < 0 and size > limit:
            reason = f"it has {size} bytes, more than the {limit} that are read of such a file"
            raise OSError(errno.EFBIG, reason, str(path))
        # a file that grows meanwhile has the same limit
        return f.read(limit if count < 0 else count)


def is_file(path: Path) -> bool:
    """Whether there is a file; False too where no file can have this name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _expect_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
