"""A fixed number of places for work in flight, whose waiters always wake: by one, in time, or by the end."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

from edgedet.contract.errors import EngineError

GRACE = 1.0
"""Seconds that a wait goes on after its time is up: the whole process may have been stopped (Ctrl-Z)."""

T = TypeVar("T")


class Slots(Generic[T]):
    """Hands out the things it is made with, one to each who asks, in any thread of this process.

    `take` reserves one; `use` makes the reservation one's own, `give` returns it. `release` is both.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._free = deque(items)
        self._reserved: list[T] = []
        self._changed = threading.Condition(threading.Lock())
        self._ended: tuple[str, str] | None = None
        self._process = os.getpid()

    def check_process(self, what: str) -> None:
        """EngineError in a forked child: it has these objects, but none of the threads that answer."""
        if os.getpid() != self._process:
            atexit.unregister(_leave)
            atexit.register(_leave)
            raise EngineError(
                f"{what} was opened in another process.",
                hint='Open it after the fork, or start processes with multiprocessing\'s "spawn".',
            )

    def take(self, timeout: float) -> T:
        """One that is free, when there is one.

        Raises EngineError: as `end` was told, or for `timeout` seconds none came back.
        """
        with self._changed:
            while not self._free or self._ended:
                if self._ended:
                    raise EngineError(self._ended[0], hint=self._ended[1])
                if not self._changed.wait(timeout) and not self._changed.wait(min(timeout, GRACE)):
                    raise EngineError(
                        f"No inference that is under way was collected for {timeout:g} s.",
                        hint="Collect every ticket, or open more of them with in_flight.",
                    )
            item = self._free.popleft()
            self._reserved.append(item)
            return item

    def use(self, item: T) -> None:
        """What `take` gave is used now; EngineError if it was used or returned already."""
        with self._changed:
            if not any(r is item for r in self._reserved):
                raise EngineError("This slot is not reserved.", hint="Call `reserve` for every `submit`.")
            self._reserved = [r for r in self._reserved if r is not item]

    def give(self, item: T) -> None:
        """What was used is free again."""
        with self._changed:
            if not self._ended:
                self._free.append(item)
            self._changed.notify_all()

    def release(self, item: T) -> None:
        """What `take` gave is not needed."""
        self.use(item)
        self.give(item)

    def end(self, error: EngineError) -> None:
        """From now on there are none: whoever waits, and whoever asks, gets `error`. The first one counts."""
        with self._changed:
            self._ended = self._ended or (error.message, error.hint)
            self._free.clear()
            self._changed.notify_all()


def _leave() -> None:
    """Out of a forked child, past the engines' libraries: they would wait for threads that it has not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1 if getattr(sys, "last_value", None) is not None else 0)
