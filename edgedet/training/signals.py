"""Ending a run when a signal asks for it: after the step that is being taken, so that its state is whole."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; systemd, docker and torchrun; a terminal or an ssh connection that went away."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run. `signal`: its number; `exit_code`: 128 + that, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal asked this process to end; None of it happens outside `handled`.

    Raises `Stopped` at once, except within `deferred`, where `signal` is set for the loop to look at.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = True

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals of `NAMES` that the caller does not ignore (nohup does), then put all back."""
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals: what is done now must be finished."""
        yield from self._set(at_once=False)

    @contextlib.contextmanager
    def interrupting(self, wanted: bool = True) -> Iterator[None]:
        """Within `deferred`: a wait that a signal may end, also one that came before."""
        yield from self._set(at_once=wanted)

    def _set(self, *, at_once: bool) -> Iterator[None]:
        before, self._at_once = self._at_once, at_once
        try:
            # only now: a signal between this and the line above would else be noted and not raised
            if at_once and self.signal is not None:
                raise Stopped(self.signal)
            yield
        finally:
            self._at_once = before

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._at_once:
            raise Stopped(self.signal)


def leave_signals_to_the_parent() -> None:
    """In a loader's process: the run ends it, not a signal that was sent to all processes at once.

    Ctrl-C and a lost terminal reach the whole process group, systemd signals the whole service. A loader
    that dies of it would break the step that its parent still finishes. SIGTERM counts from the second
    time on: that is how the parent ends a loader that is stuck.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _first_sigterm)


def _first_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
