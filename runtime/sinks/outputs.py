"""The files that a run writes: none of them an input or another output, none of an earlier run lost.

`check_outputs` compares files, not names. `OutputFile` decides where one goes:

    nothing stands there           under its own name from the first byte: it can be followed, and after a
                                   kill it is there
    live source, something there   the next free part: out-2.mp4 beside out.mp4. A service that restarts
                                   loses nothing of its lives before
    file, something there          under a temporary name, which replaces what stands there when the run
                                   came whole to its end; else it becomes the next free part
    a device, a pipe               is written to

A temporary file is locked while its process lives; one without a lock is removed by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import itertools
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgedet.contract.errors import OutputError, UsageError
from edgedet.contract.files import output_error


def check_outputs(outputs: Mapping[str, str | Path], inputs: Mapping[str, Iterable[str | Path]]) -> None:
    """Raises UsageError where an output is an input, or two outputs are one file, by whatever path.

    Args:
        outputs: what the user calls it ("--save") -> its path.
        inputs: what the user calls it ("--source") -> the files it reads; those that do not exist are no
            file, and no output can be one of them.
    """
    taken: dict[tuple[object, ...], str] = {}
    for name, paths in inputs.items():
        for path in paths:
            if Path(path).exists():
                taken.setdefault(identity(path), name)
    for name, path in outputs.items():
        if is_device(path):
            continue
        key = identity(path)
        other = taken.setdefault(key, name)
        if other == name:
            continue
        kind = "an input" if other in inputs else "another output"
        raise UsageError(
            f"{name} would write to {str(path)!r}, which is also {kind}: {other}.",
            hint=f"Give {name} a file of its own.",
        )


def identity(path: str | Path) -> tuple[object, ...]:
    """What is equal for two paths to the same file: hard links, symbolic links and mounts included.

    A file that does not exist yet is known by its nearest existing folder and the names below it, without
    regard to case, since the file system may have none.
    """
    try:
        found = Path(path).stat()
        return found.st_dev, found.st_ino
    except OSError:
        pass
    whole = Path(os.path.realpath(path))
    for folder in whole.parents:
        try:
            found = folder.stat()
        except OSError:
            continue
        return found.st_dev, found.st_ino, str(whole.relative_to(folder)).casefold()
    return (str(whole).casefold(),)


def is_device(path: str | Path) -> bool:
    """Whether it is a character device such as /dev/null or a terminal, which many may write to."""
    try:
        return stat.S_ISCHR(Path(path).stat().st_mode)
    except OSError:
        return False


def is_stdout(path: str | Path) -> bool:
    """Whether it is "-", or what standard output goes to: /dev/stdout, or the file it is redirected to."""
    if path == "-":
        return True
    try:
        there, out = Path(path).stat(), os.fstat(1)
    except OSError:
        return False
    return str(path) == "/dev/stdout" or (os.path.samestat(there, out) and not stat.S_ISCHR(there.st_mode))


class OutputFile:
    """One output of one run, see the module. Nothing is created before `begin`.

    Attributes:
        path: where it is written; after `close`, where it stands.
        fd: the open file, after `begin`.

    Raises OutputError: the folder cannot be made or written, or the path is a folder. So do `begin`, `write`
    and `close` for what happens there.
    """

    def __init__(self, path: str | Path, *, live: bool) -> None:
        self.asked = Path(path)
        self.target = Path(os.path.realpath(path))  # what a link points to is written, not the link
        self.path = self.target
        self.fd = -1
        self._live = live
        self._good = 0
        self._temporary = False
        self.regular = not self.target.exists() or self.target.is_file()
        try:
            if self.target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.regular:
                self.target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.target.parent):  # whether one can be made there
                    pass
                self._remove_stale()
        except OSError as e:
            raise output_error(self.asked, e) from e

    def begin(self) -> None:
        """Open the file, empty."""
        try:
            if self.regular:
                self._create()
            else:
                self.fd = os.open(self.target, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as e:
            raise output_error(self.asked, e) from e

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`, or none of it: what a full disk cut off is removed again."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except BrokenPipeError:
            raise
        except OSError as e:
            if self.regular:
                os.ftruncate(self.fd, self._good)
                os.lseek(self.fd, self._good, os.SEEK_SET)
            raise output_error(self.asked, e) from e
        self._good += len(data)

    def close(self, *, whole: bool) -> None:
        """The end. whole: the run came to its end, so that this may replace what stood there."""
        if self.fd < 0:
            return
        try:
            if self._temporary and whole:
                os.fsync(self.fd)
                self.path = self.path.replace(self.target)
            elif self._temporary:
                self.path = self._keep_as_part()
        except OSError as e:
            raise output_error(self.asked, e) from e
        finally:
            os.close(self.fd)  # and with it the lock
            self.fd = -1

    def _create(self) -> None:
        if self._live and any(self._open_new(part) for part in parts(self.target)):
            return
        if self._open_new(self.target):
            return
        if _could_lock(self.target) is False:
            raise OutputError(
                f"Another run is writing to {self.asked}.", hint="Name another file, or wait for its end."
            )
        for n in itertools.count():  # the lock tells whose it is, not the name
            self.path = self.target.with_name(f".{self.target.stem}.{n}.partial{self.target.suffix}")
            if self._open_new(self.path):
                self._temporary = True
                return

    def _open_new(self, path: Path) -> bool:
        """Whether `path` was free; it is ours now, and locked."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        self.path = path
        _lock(self.fd)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(self.fd)):
            return True
        os.close(self.fd)  # taken for a stale one before it was locked
        return self._open_new(path)

    def _keep_as_part(self) -> Path:
        for part in parts(self.target):
            try:
                os.link(self.path, part)  # unlike a rename it never replaces
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                return self.path.replace(part)
            self.path.unlink()
            return part
        raise AssertionError("parts do not end")

    def _remove_stale(self) -> None:
        name = f".{glob.escape(self.target.stem)}.*.partial{glob.escape(self.target.suffix)}"
        for left in self.target.parent.glob(name):
            if _could_lock(left):
                left.unlink(missing_ok=True)


def parts(path: Path) -> Iterable[Path]:
    """out.mp4, out-2.mp4, out-3.mp4 and so on."""
    yield path
    for n in itertools.count(2):
        yield path.with_name(f"{path.stem}-{n}{path.suffix}")


def _lock(fd: int) -> bool | None:
    """Whether the file is ours alone now; None on a file system without locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return False if e.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _could_lock(path: Path) -> bool | None:
    """Whether no living process holds the file; None where that cannot be known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _lock(fd)
    finally:
        os.close(fd)
