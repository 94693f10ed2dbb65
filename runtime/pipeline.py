"""Source -> preprocess -> network -> postprocess -> overlay -> sinks, all at once.

Four threads hand frames on through queues:

    capture     reads the source into a buffer of the pool
    submit      Predictor.submit: waits for a slot of the predictor, fills and starts it
    collect     Predictor.collect: waits for the network, decodes, draws the overlay if a sink looks at pixels
    caller      writes to the sinks, in frame order (windows want the main thread)

The queues are bounded by the pool: its buffers are all there is, and a buffer returns to it when the
last sink is done with the frame. A file waits for a free buffer, so none of its frames is dropped. A live
source never waits: a newer frame replaces the one that still waits for a slot.

Ends: the source is exhausted, `limit` results are reached, `stop`, a signal (SIGINT, SIGTERM, SIGHUP), or an
error. In every case each stage hands on what it has finished, sinks are closed whole, threads have ended,
and then the first error is raised with the stage it came from. A stage that does not come back at all is
given up after `timeout` seconds: that is an error too, and the rest ends as always. Two waits are others' to
bound: a live source may be silent for as long as it likes, until it is told to stop; a sink is called in the
caller's thread, which nothing but a second signal takes out of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import Any

from edgedet.contract.errors import UsageError
from edgedet.contract.frames import Frame, Notice
from edgedet.contract.numbers import check_count, check_number
from edgedet.contract.results import Result
from edgedet.runtime.opencv_threads import one_opencv_thread
from edgedet.runtime.predictor import TIMEOUT, Predictor
from edgedet.runtime.sinks.overlay import Overlay
from edgedet.runtime.sinks.sink import RunInfo, Sink
from edgedet.runtime.sources.source import Source
from edgedet.runtime.stats import Report, StageClock
from edgedet.runtime.stopping import Signals, Watch, late, named

_SPARE_BUFFERS = 3
"""Beside those in flight: one being captured, one waiting, one in the sinks."""

_MAX_NOTICES = 100

_STAGE_OF = {"edgedet_capture": "capture", "edgedet_submit": "preprocess", "edgedet_collect": "postprocess"}
"""What a thread does, in messages."""

_END = object()
"""In a queue: nothing more comes."""


class Pipeline:
    """One source through one predictor into any number of sinks. `run` once.

    Args:
        source: closed at the end of the run, unless a thread is still inside it.
        predictor: stays open. Several pipelines may share it.
        sinks: opened and closed by the run.
        overlay: draws results into the frames before the sinks see them; None leaves frames as they are.
        limit: end after this many results.
        notify: called, from the capture thread, with what happens to a live source (lost, back).
        timeout: seconds that a stage may take for one call (a file to give a frame, the predictor to start
            or to answer), and to come to its end when it is told to.
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        sinks: Sequence[Sink] = (),
        *,
        overlay: Overlay | None = None,
        limit: int | None = None,
        notify: Callable[[Notice], None] | None = None,
        timeout: float = 2 * TIMEOUT,
    ) -> None:
        check_count("limit", limit)
        check_number("timeout", timeout, above=True, most=threading.TIMEOUT_MAX)
        self._source = source
        self._predictor = predictor
        self._sinks = sinks
        self._overlay = overlay if any(s.needs_pixels for s in sinks) else None
        self._limit = limit
        self._notify = notify
        self._watch = Watch(timeout)
        # no Event and no Lock: `stop` may run in a signal handler, which a lock held below it would block
        self._ending = self._ran = False
        self._signals = Signals(self.stop)
        self._failures: list[tuple[str, BaseException]] = []
        self._captured: SimpleQueue[Any] = SimpleQueue()
        self._tickets: SimpleQueue[Any] = SimpleQueue()
        self._results: SimpleQueue[Any] = SimpleQueue()
        self._pool: SimpleQueue[Any] = SimpleQueue()
        names = ["capture", *predictor.stages, *(["overlay"] if self._overlay else [])]
        self._clock = StageClock([*names, *(s.name for s in sinks if s.name)])
        self._dropped = self._overtaken = 0
        self._notices: list[Notice] = []

    def run(self) -> Report:
        """Run to the end, in the caller's thread.

        Raises the first error of any stage, its message beginning with the stage's name: a named error as
        it is, any other as SourceError, EngineError or SinkError from it. `report` tells in that case too
        how far the run came. UsageError: it ran before.
        """
        if self._ran:
            raise UsageError("A pipeline runs once.", hint="Make another one for another run.")
        self._ran = True
        for _ in range(self._predictor.in_flight * self._predictor.batch + _SPARE_BUFFERS):
            self._pool.put(None)  # allocated by the first `retrieve`, which knows the size
        self._source.notify = self._take_notice
        stages = (self._collect, self._submit, self._capture)  # who takes starts before who gives
        threads = [threading.Thread(target=s, name=f"edgedet{s.__name__}", daemon=True) for s in stages]
        with self._signals, ExitStack() as closing:  # closes everything, whatever is raised meanwhile
            closing.callback(self._close_source, threads)
            for sink in self._sinks:
                if self._ending:
                    break
                sink.stop, sink.tell = self.stop, self._take_notice
                closing.callback(self._close_sink, sink)
                with self._recorded(sink.name):
                    sink.open(self._run_info())
            closing.callback(self._end)
            closing.enter_context(one_opencv_thread())
            if not self._ending:
                self._clock.start()
                with self._recorded("preprocess"):
                    for thread in threads:
                        thread.start()
                    self._deliver()
        if self._failures:
            raise named(*self._failures[0])
        return self.report()

    def stop(self) -> None:
        """End soon, with the outputs whole. From any thread or signal handler."""
        self._end()

    def report(self) -> Report:
        """What was done so far."""
        return Report(
            model=self._predictor.spec.model,
            engine=self._predictor.name,
            source=self._source.name,
            frames=self._clock.frames,
            dropped=self._dropped + self._overtaken,
            lost=self._source.lost,
            seconds=self._clock.seconds,
            fps=self._clock.fps,
            stages=self._clock.timings(),
            cpu_ms=self._clock.cpu_ms(),
            latency=self._clock.latency.timing(),
            notices=tuple(self._notices),
            signal=self._signals.caught,
        )

    # the stages, in order: the first three on threads of their own -----------------------------------

    def _capture(self) -> None:
        source, index = self._source, -1
        with self._stage("capture", self._captured):
            while not self._ending:
                began = time.monotonic()
                with self._clock.stage("capture") as timing:
                    with nullcontext() if source.live else self._watch.call("capture"):  # live may be silent
                        more = source.grab()
                    if not more:
                        timing.discard()
                        break
                    arrived = time.monotonic() if source.live else began
                    index += 1
                    timing.pause()
                    buffer: Any = self._newest_wins() if source.live else self._pool.get()
                    timing.resume()
                    if buffer is _END:  # none is free, or the run ends
                        timing.discard()
                        self._dropped += not self._ending
                        continue
                    with self._watch.call("capture"):
                        pixels = source.retrieve(buffer)
                self._captured.put(
                    Frame(
                        pixels,
                        index,
                        arrived,
                        source.name,
                        media_time=source.media_time,
                        file=source.file,
                        buffer=None if pixels is buffer else buffer,
                    )
                )

    def _submit(self) -> None:
        submitted = 0
        with self._stage("preprocess", self._tickets):
            while not self._ending and submitted != self._limit:
                left = self._predictor.batch if self._limit is None else self._limit - submitted
                frames = self._next_frames(min(left, self._predictor.batch))
                if not frames:
                    break
                # no slot is held while there is no frame: others may use the predictor too
                with self._watch.call("preprocess"):
                    slot = self._predictor.reserve()
                if self._source.live:
                    self._renew(frames, min(left, self._predictor.batch))
                with self._watch.call("preprocess"), self._clock.cpu("preprocess"):
                    ticket = self._predictor.submit(frames, slot)
                self._tickets.put((frames, ticket))
                submitted += len(frames)
            self._end()  # the source may still be reading

    def _next_frames(self, most: int) -> list[Frame]:
        """For one ticket, a full one of a file; [] at the end. A live source gives one, see `_renew`."""
        frames: list[Frame] = []
        while len(frames) < (1 if self._source.live else most):
            frame = self._captured.get()
            if frame is _END:
                if frames:
                    self._captured.put(_END)  # for the next look
                break
            frames.append(frame)
        return frames

    def _renew(self, frames: list[Frame], most: int) -> None:
        """What has come while there was no slot: in place of the oldest where a ticket is full."""
        with suppress(Empty):
            while (newer := self._captured.get_nowait()) is not _END:
                if len(frames) == most:
                    self._pool.put(frames.pop(0).release())
                    self._overtaken += 1
                frames.append(newer)
            self._captured.put(_END)  # for the next look

    def _collect(self) -> None:
        failed = False
        with self._stage("postprocess", self._results):
            if self._overlay:
                self._overlay.warm_up()
            while (item := self._tickets.get()) is not _END:
                frames, ticket = item
                stage = "postprocess"
                try:
                    # after a failure too: engines write into buffers until their tickets are collected
                    with self._watch.call("postprocess"), self._clock.cpu("postprocess"):
                        results = self._predictor.collect(ticket)
                    if failed:
                        continue
                    for name, seconds in ticket.times.items():
                        self._clock.add(name, seconds)
                    for frame, result in zip(frames, results, strict=True):
                        if self._overlay:
                            stage = "overlay"
                            with self._watch.call("overlay"), self._clock.stage("overlay"):
                                self._overlay.draw(frame.image, result)
                        self._results.put((frame, result))
                except BaseException as e:  # whatever it is: who waits for a slot must get one
                    failed = True
                    self._fail(stage, e)

    def _deliver(self) -> None:
        """Hand results to the sinks until there are no more, or a stage is given up."""
        try:
            failed = False
            while (item := self._next_result()) is not _END:
                if not failed:
                    failed = not self._write(item)
                if not isinstance(item, Notice):
                    self._pool.put(item[0].release())
        except BaseException:  # a second Ctrl-C: the other threads must still come to their end
            self._end()
            while self._next_result() is not _END:
                pass
            raise

    def _next_result(self) -> Any:
        """What comes next; the end, too, where a stage does not come back."""
        while True:
            if stage := self._watch.look():
                self._fail(stage, late(stage, self._watch.timeout))
                self._end()
                if stage != "capture":  # what was captured before is still on its way
                    return _END
            with suppress(Empty):
                return self._results.get(timeout=Watch.INTERVAL)

    def _write(self, item: tuple[Frame, Result] | Notice) -> bool:
        """One result or notice into every sink; False if a sink failed."""
        if not isinstance(item, Notice):
            self._clock.result(time.monotonic() - item[0].captured)
        for sink in self._sinks:
            try:
                if isinstance(item, Notice):
                    sink.notice(item)
                elif sink.name:
                    with self._clock.stage(sink.name):
                        sink.write(*item)
                else:
                    sink.write(*item)
            except Exception as e:
                self._fail(sink.name, e)
                return False
        return True

    def _newest_wins(self) -> Any:
        """A buffer for a live frame, taken from the one that waits if need be; _END if all are in use."""
        with suppress(Empty):
            waiting = self._captured.get_nowait()
            if waiting is _END:  # which `_end` announced
                self._captured.put(_END)
                return _END
            self._dropped += 1
            return waiting.release()
        with suppress(Empty):
            return self._pool.get_nowait()
        return _END

    # ends --------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """No more input: wake whoever waits for some."""
        self._ending = True
        self._captured.put(_END)
        self._pool.put(_END)
        try:
            self._source.stop()
        except Exception as e:
            self._failures.append(("capture", e))

    def _close_sink(self, sink: Sink) -> None:
        sink.whole = not self._failures and self._signals.caught is None
        with self._recorded(sink.name):
            sink.close()

    def _close_source(self, threads: Sequence[threading.Thread]) -> None:
        """When all threads have ended; one that does not is a failure, and what it uses stays open."""
        if not all(t.ident for t in threads):  # one that did not start tells nobody of the end
            self._tickets.put(_END)
        until = time.monotonic() + (Watch.INTERVAL if self._watch.given_up else self._watch.timeout)
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        stuck = [_STAGE_OF[t.name] for t in threads if t.is_alive()]
        for stage in stuck:
            self._fail(stage, late(stage, self._watch.timeout))
        if not stuck:
            with self._recorded("capture"):
                self._source.close()

    @contextmanager
    def _stage(self, name: str, following: SimpleQueue[Any]) -> Iterator[None]:
        """The whole of a stage's thread: whatever happens, the following stage learns of the end."""
        try:
            yield
        except BaseException as e:
            self._fail(name, e)
        finally:
            following.put(_END)

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

    def _take_notice(self, notice: Notice) -> None:
        if len(self._notices) < _MAX_NOTICES:
            self._notices.append(notice)
        self._results.put(notice)
        if self._notify:
            with self._recorded("notify"):
                self._notify(notice)

    def _run_info(self) -> RunInfo:
        s = self._source
        return RunInfo(s.name, s.fps, s.live, self._predictor.spec, tuple(s.paths))
