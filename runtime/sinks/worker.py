"""A thread that does a sink's slow work, so that the sink does not hold the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

_END = object()


class Worker:
    """Calls `work` with each item given to `put`, in order, on a thread of its own.

    After `work` has failed, it is not called again: `error` is what it raised.

    Args:
        work: the slow part.
        tick: called every second in which no item came.
        ended: called at the end, on the thread, with whether nothing has failed.
        failed: called at once when `work`, `tick` or `ended` has failed.
        skipped: called instead of `work` for each item that came after a failure.
    """

    TICK = 1.0

    def __init__(
        self,
        name: str,
        work: Callable[[Any], None],
        *,
        ended: Callable[[bool], None],
        failed: Callable[[Exception], None],
        tick: Callable[[], None] = lambda: None,
        skipped: Callable[[Any], None] = lambda item: None,
    ) -> None:
        self.error: Exception | None = None
        self._work, self._tick, self._ended = work, tick, ended
        self._failed, self._skipped = failed, skipped
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"edgedet_{name}", daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:
        """Hand over; never waits."""
        self._queue.put(item)

    def close(self, timeout: float) -> bool:
        """Let it do what it was given, then end; False if it has not within `timeout` seconds."""
        self._queue.put(_END)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due = time.monotonic() + self.TICK
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                due = time.monotonic() + self.TICK
                self._guarded(self._tick)
                continue
            if item is _END:
                break
            due = time.monotonic() + self.TICK
            if self.error is None:
                self._guarded(self._work, item)
            else:
                self._skipped(item)
        self._guarded(self._ended, self.error is None, always=True)

    def _guarded(self, call: Callable[..., None], *args: Any, always: bool = False) -> None:
        if self.error is not None and not always:
            return
        try:
            call(*args)
        except Exception as e:
            if self.error is None:
                self.error = e
                self._failed(e)
