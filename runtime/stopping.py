"""Signals that ask a run to end: once politely, a second time as usual."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

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
                if before not in (signal.SIG_IGN, None):
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
