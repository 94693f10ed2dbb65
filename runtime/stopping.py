"""What ends a run from outside: signals, once politely, then as usual; calls that do not return."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from edgedet.contract.errors import EdgedetError, EngineError, SinkError, SourceError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""A person (Ctrl-C), a service manager or container engine, a terminal that goes away."""


class Signals:
    """While it is entered, the first of SIGNALS calls `stop`; the second does what it did before.

    Only the main thread can be told of signals: elsewhere it does nothing. A signal that was ignored
    (`nohup`) stays ignored.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.caught: int | None = None
        """The number of the signal that came first."""
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if self.caught is None and before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _first(self, number: int, _frame: FrameType | None) -> None:
        self._restore()
        self.caught = number
        self._stop()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class Watch:
    """Calls that must come back within `timeout` seconds, looked at from another thread.

    Time counts by looks, at most one every INTERVAL seconds: while the process is stopped (Ctrl-Z), or who
    looks is busy elsewhere, none passes.
    """

    INTERVAL = 0.1

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.given_up = False
        self._looks = 0
        self._looked = 0.0
        self._since: dict[str, int] = {}

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """A call that is watched, one of each name at a time."""
        self._since[name] = self._looks
        try:
            yield
        finally:
            self._since.pop(name, None)

    def look(self) -> str | None:
        """Called every INTERVAL or more often: the name of a call that is late, once for each; else None."""
        now = time.monotonic()
        if now - self._looked < 0.9 * self.INTERVAL:  # a wait may end a little early
            return None
        self._looked = now
        self._looks += 1
        for name, since in list(self._since.items()):
            if (self._looks - since) * self.INTERVAL > self.timeout:
                self._since.pop(name, None)
                self.given_up = True
                return name
        return None


def late(stage: str, timeout: float) -> EdgedetError:
    """The error of a stage that is given up."""
    kind = SourceError if stage == "capture" else SinkError if stage == "overlay" else EngineError
    return kind(f"did not come back within {timeout:g} s.", hint="What it calls hangs, or is far too slow.")


def named(stage: str, error: BaseException) -> BaseException:
    """The error to raise for what happened in a stage."""
    if isinstance(error, EdgedetError):
        error.message = f"{stage}: {error.message}"
        return error
    if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
        return error
    engines = ("preprocess", "postprocess")
    kind = SourceError if stage == "capture" else EngineError if stage in engines else SinkError
    found = kind(f"{stage}: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
