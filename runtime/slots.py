"""A fixed number of places for work in flight, whose waiters always wake: by a place, or by the end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from edgedet.contract.errors import EdgedetError

T = TypeVar("T")


class Slots(Generic[T]):
    """Hands out the things it is made with, one to each who asks, in any thread."""

    def __init__(self, items: Iterable[T]) -> None:
        self._free = deque(items)
        self._changed = threading.Condition(threading.Lock())
        self._ended: EdgedetError | None = None

    def take(self) -> T:
        """One that is free, when there is one; raises the error that `end` was given."""
        with self._changed:
            while not self._free or self._ended:
                if self._ended:
                    raise type(self._ended)(self._ended.message, hint=self._ended.hint)
                self._changed.wait()
            return self._free.popleft()

    def give(self, item: T) -> None:
        """Back, for the next one."""
        with self._changed:
            self._free.append(item)
            self._changed.notify()

    def end(self, error: EdgedetError) -> None:
        """From now on there are none: whoever waits, and whoever asks, gets `error`. The first one counts."""
        with self._changed:
            self._ended = self._ended or error
            self._changed.notify_all()
