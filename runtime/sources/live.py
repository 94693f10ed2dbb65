"""A camera or a network stream as a source: it may pause, vanish, and come back in another size."""

from __future__ import annotations

import random
import time
from queue import Empty, SimpleQueue

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Image, Notice, YuvImage
from edgedet.runtime.sources.reader import NotThere, Reader, open_reader, shown
from edgedet.runtime.sources.source import Source

_FIRST_PAUSE = 0.5
"""Seconds before the second try; doubled for each further one."""

_LONGEST_PAUSE = 30.0

_PROOF = 5.0
"""Seconds for which it must deliver before the next loss counts as a new one.

Until then tries and pauses go on growing: a stream can fail in the open as well as in the opening, when it
ends at once, or sends nothing that can be decoded.
"""

_QUIET = 10.0
"""Seconds without damage after which damage is said again."""


class Live(Source):
    """The newest frames of a camera or stream.

    A pause of less than `timeout` is waited out. When it is lost it is opened again, for ever or up to
    `reconnects` times in a row, after pauses that grow to 30 s; meanwhile there are no frames, never old or
    black ones. It says when it is lost and when it is back, when its frames have another size, and when some
    could not be decoded.

    Args:
        target: a camera's index or device, or a URL.
        timeout: seconds to open, and to wait for the next frame.
        reconnects: tries in a row; 0 for none, None for as many as it takes.
        reader: the opened target, if it is open already.
        absent: why it could not be opened, if it is to be waited for.

    Raises:
        SourceError: it cannot be opened. From `grab`: it is lost for good.
    """

    live = True

    def __init__(
        self,
        target: int | str,
        *,
        timeout: float = 10.0,
        reconnects: int | None = None,
        reader: Reader | None = None,
        absent: NotThere | None = None,
    ) -> None:
        self.name = shown(target)
        self._target = target
        self._timeout = timeout
        self._reconnects = reconnects
        self._stopping = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._reader = reader
        self._tries = 0  # since it last delivered for a while
        self._away: float | None = None  # since when
        self._said: set[str] = set()  # why it is away, in this absence
        self._absent = absent
        self._arrived: float | None = None  # the first frame of this connection
        self._size: tuple[int, int] | None = None
        self._lost_before = 0  # by earlier connections
        self._damaged: float | None = None
        if reader is None and absent is None:
            try:
                self._reader = open_reader(target, timeout=timeout)
            except NotThere as e:
                raise SourceError(e.message, hint=e.hint) from None
        if self._reader is not None:
            self.fps = self._reader.fps

    def grab(self) -> bool:
        """See Source."""
        if self._absent is not None:
            self._say_lost(self._absent)
            self._absent = None
        while not self._stopping:
            if self._reader is None and not self._connect():
                return False
            assert self._reader is not None
            why = SourceError("it ended")
            try:
                came = self._reader.grab()
            except SourceError as e:
                came, why = False, e
            self._count_damage(self._reader)
            if came:
                self._take(self._reader)
                return True
            self._disconnect()
            if not self._stopping:
                self._say_lost(why)
        return False

    def retrieve(self, buffer: Image | None) -> Image | YuvImage:
        """See Source."""
        assert self._reader is not None, "retrieve without grab"
        return self._reader.retrieve(buffer)

    def stop(self) -> None:
        """See Source. A read that waits in the library returns within the timeout."""
        self._stopping = True
        self._wake.put(None)

    def close(self) -> None:
        """See Source."""
        self._disconnect()

    def _connect(self) -> bool:
        """Open again; False if told to stop meanwhile. SourceError: no try is left."""
        why = None
        while self._reconnects is None or self._tries < self._reconnects:
            self._sleep(_pause(self._tries))
            if self._stopping:
                return False
            self._tries += 1
            try:
                self._reader = open_reader(self._target, timeout=self._timeout)
            except SourceError as e:
                why = e
                if e.message not in self._said:
                    self._said.add(e.message)
                    reason = e.message.removeprefix(f"Cannot open {self.name}: ")
                    self._say(f"{self.name} is still lost: {reason}", "note")
                continue
            self.fps = self._reader.fps
            return True
        if not self._reconnects:
            raise SourceError(f"{self.name} is lost: {self._reason}.", hint=_HINT)
        raise SourceError(
            f"{self.name} is lost, and {self._reconnects} tries to open it again failed: "
            f"{self._reason if why is None else why.message.rstrip('.')}.",
            hint=_HINT,
        )

    def _take(self, reader: Reader) -> None:
        """Note what the frame just grabbed tells."""
        now = time.monotonic()
        if self._arrived is None:
            self._arrived = now
        elif now - self._arrived > _PROOF:
            self._tries = 0
        if self._away is not None:
            tries = f"{self._tries} tr{'y' if self._tries == 1 else 'ies'}"
            self._say(f"{self.name} is back after {now - self._away:.1f} s, {tries}", "back")
            self._away = None
            self._said.clear()
        size = reader.size
        if size is not None and size != self._size:
            if self._size is not None:
                height, width = size
                before = f"{self._size[1]}x{self._size[0]}"
                self._say(f"{self.name} now sends {width}x{height}, before {before}", "size")
            self._size = size

    def _say_lost(self, why: SourceError) -> None:
        self._reason = why.message.removeprefix(f"Cannot open {self.name}: ").rstrip(".")
        if self._away is None:
            self._away = time.monotonic()
            self._said.add(why.message)
            if self._reconnects != 0:
                waits = "waiting for it" if isinstance(why, NotThere) else "opening it again"
                self._say(f"{self.name} is lost: {self._reason}; {waits}", "lost")

    def _count_damage(self, reader: Reader) -> None:
        lost = self._lost_before + reader.lost
        if lost > self.lost:
            now = time.monotonic()
            if self._damaged is None or now - self._damaged > _QUIET:
                self._say(f"{self.name} sends frames that cannot be decoded", "damaged")
            self._damaged = now
            self.lost = lost

    def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._lost_before = self.lost
        self._arrived = None

    def _say(self, text: str, kind: str) -> None:
        self.notify(Notice(text, kind))  # type: ignore[arg-type]

    def _sleep(self, seconds: float) -> None:
        if seconds:
            try:
                self._wake.get(timeout=seconds)
            except Empty:
                return


_HINT = "Check its power, cable and network; a slow one needs a longer timeout."


def _pause(tries: int) -> float:
    """Seconds before the next try; half of it by chance, lest many readers come back all at once."""
    if not tries:
        return 0.0
    return min(_FIRST_PAUSE * 2.0 ** min(tries - 1, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311
