"""Source -> preprocess -> engine -> postprocess -> overlay -> sinks, all at once.

Four threads hand frames on through queues:

    capture     reads the source into a buffer of the pool
    preprocess  Predictor.submit: fills an engine request and starts it
    postprocess Predictor.collect: waits for the engine, decodes, draws the overlay
    caller      writes to the sinks, in frame order (windows want the main thread)

The queues are bounded by the pool: its buffers are all there is, and a buffer returns to it when the
last sink is done with the frame. A file waits for a free buffer, so none of its frames is dropped. A live
source never waits: a newer frame replaces the one that still waits for preprocessing.

Ends: the source is exhausted, `limit` results are reached, `stop` or Ctrl-C, or an error. In every case
each stage hands on what it has finished, sinks are closed whole, threads have ended, and then the first
error is raised with the stage it came from.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from edgedet.contract.errors import EdgedetError, EngineError, SinkError, SourceError
from edgedet.contract.results import Frame, Result
from edgedet.runtime.predictor import Predictor, Ticket
from edgedet.runtime.sinks.overlay import Overlay
from edgedet.runtime.sinks.sink import RunInfo, Sink
from edgedet.runtime.sources.source import Image, Source
from edgedet.runtime.stats import Histogram, Report

_SPARE_BUFFERS = 3
"""Beside those in flight: one being captured, one waiting, one in the sinks."""

_MAX_NOTICES = 100


@dataclass(frozen=True)
class _Notice:
    """What the source has to say, on its way to the sinks between the frames."""

    text: str


class Pipeline:
    """One source through one predictor into any number of sinks. `run` once.

    Args:
        source: closed at the end of the run.
        predictor: stays open.
        sinks: opened and closed by the run.
        overlay: draws results into the frames before the sinks see them; None leaves frames as they are.
        limit: end after this many results.
        notify: called, from the capture thread, with what a live source has to say (lost, found again).
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        sinks: Sequence[Sink] = (),
        *,
        overlay: Overlay | None = None,
        limit: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._source = source
        self._predictor = predictor
        self._sinks = sinks
        self._overlay = overlay
        self._limit = limit
        self._notify = notify
        # no Event and no Lock: `stop` may run in a signal handler, which a lock held below it would block
        self._ending = False
        self._interrupted = False
        self._failures: list[tuple[str, BaseException]] = []
        # None in a queue: nothing more comes
        self._captured: SimpleQueue[Frame | None] = SimpleQueue()
        self._tickets: SimpleQueue[tuple[Frame, Ticket] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Frame, Result] | _Notice | None] = SimpleQueue()
        self._pool: SimpleQueue[Image | None] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()
        names = ["capture", *predictor.stages, *(["overlay"] if overlay else [])]
        names += [s.name for s in sinks if s.name]
        self._stages = {name: Histogram() for name in names}
        self._latency = Histogram()
        self._dropped = 0
        self._notices: list[str] = []
        self._seconds = 0.0

    def run(self) -> Report:
        """Run to the end, in the caller's thread.

        Raises the first error of any stage, its message beginning with the stage's name: a named error as
        it is, any other as SourceError, EngineError or SinkError from it. `report` tells in that case too
        how far the run came.
        """
        for _ in range(self._predictor.in_flight + _SPARE_BUFFERS):
            self._pool.put(None)  # allocated by the first `retrieve`, which knows the size
        for _ in range(self._predictor.in_flight):
            self._places.put(None)
        self._source.notify = self._notice
        stages = (self._capture, self._preprocess, self._postprocess)
        threads = [threading.Thread(target=s, name=f"edgedet{s.__name__}", daemon=True) for s in stages]
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.stop = self.stop
                opened.append(sink)
                with self._recorded(sink.name):
                    sink.open(self._stream())
            with self._ctrl_c():
                if not self._failures:
                    for thread in threads:
                        thread.start()
                    self._deliver()
        finally:
            self._end()
            for sink in opened:
                with self._recorded(sink.name):
                    sink.close()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._source.close()
        if self._failures:
            raise _named(*self._failures[0])
        return self.report()

    def stop(self) -> None:
        """End soon, with the outputs whole. From any thread or signal handler."""
        self._end()

    def report(self) -> Report:
        """What was done so far."""
        frames, seconds = self._latency.count, self._seconds
        busy = self._stages["engine"].total / self._predictor.streams
        return Report(
            model=self._predictor.spec.model,
            engine=self._predictor.name,
            source=self._source.name,
            frames=frames,
            dropped=self._dropped,
            seconds=seconds,
            fps=frames / seconds if seconds else 0.0,
            engine_busy=min(busy / seconds, 1.0) if seconds else 0.0,
            stages={name: h.timing() for name, h in self._stages.items()},
            latency=self._latency.timing(),
            notices=tuple(self._notices),
            interrupted=self._interrupted,
        )

    # the stages, in order: the first three on threads of their own -----------------------------------

    def _capture(self) -> None:
        source, timer, index = self._source, self._stages["capture"], -1
        with self._stage("capture", self._captured):
            while not self._ending:
                started = time.perf_counter()
                if not source.grab():
                    break
                grabbed = time.perf_counter()
                index += 1
                free = self._newest_wins() if source.live else (self._pool.get(),)
                if not free:
                    self._dropped += 1
                    continue
                resumed = time.perf_counter()
                image = source.retrieve(free[0])
                timer.add(time.perf_counter() - resumed + grabbed - started)
                self._captured.put(Frame(image, index, time.monotonic(), source.name))

    def _preprocess(self) -> None:
        submitted = 0
        with self._stage("preprocess", self._tickets):
            # first a place in the predictor, then the frame: meanwhile a newer one may replace it
            while not self._ending and submitted != self._limit:
                self._places.get()
                frame = self._captured.get()
                if frame is None:
                    break
                self._tickets.put((frame, self._predictor.submit([frame])))
                submitted += 1
            self._end()  # the source may still be reading

    def _postprocess(self) -> None:
        failed = False
        with self._stage("postprocess", self._results):
            while (item := self._tickets.get()) is not None:
                stage = "postprocess"
                try:
                    # after a failure too: engines write into buffers until their tickets are collected
                    (result,) = self._predictor.collect(item[1])
                    self._places.put(None)
                    if failed:
                        continue
                    for name, seconds in item[1].times.items():
                        self._stages[name].add(seconds)
                    if self._overlay:
                        stage = "overlay"
                        started = time.perf_counter()
                        self._overlay.draw(item[0].image, result)
                        self._stages[stage].add(time.perf_counter() - started)
                    self._results.put((item[0], result))
                except Exception as e:
                    failed = True
                    self._fail(stage, e)

    def _deliver(self) -> None:
        """Hand results to the sinks until there are no more."""
        started = time.monotonic()
        try:
            failed = False
            while (item := self._results.get()) is not None:
                if not failed:
                    failed = not self._write(item)
                if not isinstance(item, _Notice):
                    self._seconds = time.monotonic() - started
                    self._pool.put(item[0].image)
        except BaseException:  # a second Ctrl-C: the other threads must still come to their end
            self._end()
            while self._results.get() is not None:
                pass
            raise

    def _write(self, item: tuple[Frame, Result] | _Notice) -> bool:
        """One result or notice into every sink; False if a sink failed."""
        if not isinstance(item, _Notice):
            self._latency.add(time.monotonic() - item[0].captured)
        for sink in self._sinks:
            started = time.perf_counter()
            try:
                if isinstance(item, _Notice):
                    sink.notice(item.text)
                else:
                    sink.write(*item)
                    if sink.name:
                        self._stages[sink.name].add(time.perf_counter() - started)
            except Exception as e:
                self._fail(sink.name, e)
                return False
        return True

    def _newest_wins(self) -> tuple[Image | None] | tuple[()]:
        """A buffer for a live frame, taken from the one that waits if need be; () if all are in use."""
        with suppress(Empty):
            waiting = self._captured.get_nowait()
            if waiting is None:  # the end, which `_end` announced
                self._captured.put(None)
                return ()
            self._dropped += 1
            return (waiting.image,)
        with suppress(Empty):
            return (self._pool.get_nowait(),)
        return ()

    # ends --------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """No more input: wake whoever waits for some."""
        self._ending = True
        self._source.stop()
        self._captured.put(None)
        self._pool.put(None)

    @contextmanager
    def _stage(self, name: str, following: SimpleQueue[Any]) -> Iterator[None]:
        """The whole of a stage's thread: whatever happens, the following stage learns of the end."""
        try:
            yield
        except BaseException as e:
            self._fail(name, e)
        finally:
            following.put(None)

    @contextmanager
    def _recorded(self, name: str) -> Iterator[None]:
        """An error inside becomes the run's, if it is the first."""
        try:
            yield
        except Exception as e:
            self._fail(name, e)

    def _fail(self, stage: str, error: BaseException) -> None:
        self._failures.append((stage, error))
        if stage != "capture":  # frames captured before a source failed are still worth their results
            self._end()

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """The first Ctrl-C stops, the second interrupts as usual. Only the main thread can be told."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def first(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, previous)
            self._interrupted = True
            self.stop()

        signal.signal(signal.SIGINT, first)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _notice(self, text: str) -> None:
        if len(self._notices) < _MAX_NOTICES:
            self._notices.append(text)
        self._results.put(_Notice(text))
        if self._notify:
            self._notify(text)

    def _stream(self) -> RunInfo:
        return RunInfo(self._source.name, self._source.fps, self._source.live, self._predictor.spec)


def _named(stage: str, error: BaseException) -> BaseException:
    """The error to raise for what happened in a stage."""
    if isinstance(error, EdgedetError):
        error.message = f"{stage}: {error.message}"
        return error
    if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
        return error
    kind = {"capture": SourceError, "preprocess": EngineError, "postprocess": EngineError}.get(
        stage, SinkError
    )
    named = kind(f"{stage}: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named
