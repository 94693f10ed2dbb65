"""From frames to results: what the pipeline drives, without ever touching a tensor.

A Predictor takes frames and hands out a ticket at once; the ticket is later exchanged for results. At most
`in_flight` tickets are out. That shape fits

- `CpuPredictor`: preprocess into a free request's input, infer, postprocess;
- a two-stage detector: the proposal stage runs in `submit` or `collect`, the second engine in `collect`;
- a CUDA predictor: `submit` uploads and enqueues everything on a stream, `collect` waits for its event
  and reads back the final results.

Any number of threads may submit, and any may collect: a ticket belongs to its own slot, so results are never
mixed. Every wait ends: with a free slot, with the engine's answer, with `timeout`, or with an EngineError
from whoever closed the predictor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edgedet.contract.errors import EngineError
from edgedet.contract.frames import Frame, Image
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import FrameTransform, Preprocessor
from edgedet.contract.results import Result
from edgedet.contract.spec import ModelSpec, Thresholds
from edgedet.runtime.engines.engine import Engine, Request, open_engine
from edgedet.runtime.slots import Slots

TIMEOUT = 60.0
"""Seconds that an inference may take before its engine counts as hung: far more than any network needs."""


class Ticket:
    """Frames on their way through a predictor. `times`: seconds by stage, complete after `collect`."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.times: dict[str, float] = dict.fromkeys(stages, 0.0)
        self._claimed = threading.Lock()

    def claim(self) -> None:
        """Whoever collects calls this first; EngineError at the second time."""
        if not self._claimed.acquire(blocking=False):
            raise EngineError("This ticket was collected already.", hint="Keep the results of `collect`.")


class Predictor(Protocol):
    """See the module's docstring. All methods may be called from any thread."""

    @property
    def spec(self) -> ModelSpec:
        """The model, with the thresholds in force."""

    @property
    def name(self) -> str:
        """What computes, for example "OpenVINO CPU fp32"."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The names in `Ticket.times`, in order: this predictor's own ("upload", "preprocess", "network")."""

    @property
    def streams(self) -> int:
        """How many inferences run at the same time."""

    @property
    def in_flight(self) -> int:
        """How many tickets may be out."""

    @property
    def batch(self) -> int:
        """How many frames one ticket may have."""

    def reserve(self) -> Any:
        """A slot for `submit`, when one is free. A live source then submits what is newest by that time.

        Raises EngineError: the predictor was closed, or its engine hangs.
        """

    def release(self, slot: Any) -> None:
        """A slot that was reserved and is not needed."""

    def submit(self, frames: Sequence[Frame], slot: Any = None) -> Ticket:
        """Start on 1 to `batch` frames. Their pixels must stay as they are until `collect`.

        Args:
            slot: from `reserve`, taken over in any case; by default the next that is free.

        Raises EngineError: too many frames, or as `reserve`. ImageError: pixels of another kind.
        """

    def collect(self, ticket: Any) -> list[Result]:
        """Wait for a ticket: one result per frame. Frees its slot in any case.

        Raises EngineError: the inference failed or took too long, the ticket was collected already, or the
        predictor was closed.
        """

    def close(self) -> None:
        """Free everything, the engine included, when what is in flight has come back; wakes all who wait."""


class CpuPredictor:
    """Preprocess -> engine -> postprocess on the CPU.

    Args:
        engine: open; closed with the predictor.
        thresholds: instead of the spec's own.
        in_flight: tickets that may be out. The default, one more than the engine's streams, keeps a
            preprocessed frame ready for the moment the engine is free.
        batch: frames in one inference; the spec's own where that is fixed, else 1 by default.
        timeout: seconds that an inference may take before its engine counts as hung.

    Raises:
        SpecError: the spec does not fit its own tensors. EngineError: the batch is not the model's.
    """

    stages = ("preprocess", "network", "postprocess")

    def __init__(
        self,
        engine: Engine,
        *,
        thresholds: Thresholds | None = None,
        in_flight: int | None = None,
        batch: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.engine = engine
        self.spec = engine.spec.with_(thresholds=thresholds) if thresholds else engine.spec
        self.name = engine.name
        self.streams = engine.streams
        self.in_flight = in_flight or engine.streams + 1
        self.batch = batch or engine.spec.input.batch or 1
        self._postprocess = make_postprocessor(self.spec)
        self._timeout = timeout
        self._process = os.getpid()
        self._out: set[CpuTicket] = set()
        self._idle = threading.Condition()
        self._closed = self._hung = False
        self._slots = Slots([_Slot(engine.request(self.batch), self.spec) for _ in range(self.in_flight)])

    def reserve(self) -> _Slot:
        """See Predictor."""
        self._check_process()
        return self._slots.take()

    def release(self, slot: _Slot) -> None:
        """See Predictor."""
        self._slots.give(slot)

    def submit(self, frames: Sequence[Frame], slot: _Slot | None = None) -> CpuTicket:
        """See Predictor."""
        slot = slot or self.reserve()
        try:
            if not 0 < len(frames) <= self.batch:
                raise EngineError(f"Got {len(frames)} frames at once, expected 1 to {self.batch}.")
            started = time.perf_counter()
            transforms = slot.fill(frames)
            ticket = CpuTicket(self, slot, transforms)
            ticket.times["preprocess"] = time.perf_counter() - started
            with self._idle:
                if self._closed:
                    raise self._closed_error()
                self._out.add(ticket)
        except BaseException:
            self._slots.give(slot)
            raise
        try:
            slot.request.start()
        except BaseException:
            self._finish(ticket)
            raise
        return ticket

    def collect(self, ticket: CpuTicket) -> list[Result]:
        """See Predictor."""
        self._check_process()
        if ticket.predictor is not self:
            raise EngineError("This ticket belongs to another predictor.")
        with self._idle:
            if self._closed and ticket in self._out:
                raise self._closed_error()
            ticket.claim()
        hung = False
        try:
            ticket.times["network"] = self._wait(ticket)
            started = time.perf_counter()
            results = self._postprocess(ticket.slot.request.outputs, ticket.transforms)
            ticket.times["postprocess"] = time.perf_counter() - started
            return results
        except _Hung as e:
            hung = self._hung = True
            self._slots.end(e.error)
            raise e.error from None
        finally:
            self._finish(ticket, hung=hung)

    def _wait(self, ticket: CpuTicket) -> float:
        """As `Request.wait`; `_Hung` where the time is up: the request is then the engine's for good."""
        started = time.monotonic()
        try:
            return ticket.slot.request.wait(0 if self._hung else self._timeout)
        except EngineError as e:
            if self._hung or time.monotonic() - started >= self._timeout:
                raise _Hung(e) from e
            raise

    def _finish(self, ticket: CpuTicket, *, hung: bool = False) -> None:
        """Its slot is free, and the ticket no longer out; neither where the engine hangs on it."""
        if hung:
            return
        self._slots.give(ticket.slot)
        with self._idle:
            self._out.discard(ticket)
            self._idle.notify_all()

    def __call__(self, image: Image) -> Result:
        """One image (H, W, 3) uint8 BGR -> its result.

        Raises ImageError: it is of another type or shape. EngineError as `submit` and `collect`.
        """
        return self.collect(self.submit([Frame(image)]))[0]

    def close(self) -> None:
        """See Predictor."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._out)
        self._slots.end(self._closed_error())
        if os.getpid() != self._process:
            return  # the engine's threads are in the other process, and so is what must be freed
        for ticket in waiting:
            self._abandon(ticket)
        with self._idle:
            done = self._idle.wait_for(lambda: not self._out, 0 if self._hung else self._timeout)
        if done:  # else an engine that hangs still writes into its buffers: better a leak than a crash
            self.engine.close()

    def _abandon(self, ticket: CpuTicket) -> None:
        """Engines write into buffers until they are waited for; what another thread collects is its own."""
        try:
            ticket.claim()
        except EngineError:
            return
        hung = False
        try:
            self._wait(ticket)
        except _Hung:
            hung = self._hung = True
        except EngineError:
            pass  # nobody is left who wants to know
        finally:
            self._finish(ticket, hung=hung)

    def _closed_error(self) -> EngineError:
        return EngineError(f"The predictor of {self.spec.model!r} ({self.name}) is closed.")

    def _check_process(self) -> None:
        """A forked child has this object but none of the engine's threads: it would wait for ever."""
        if os.getpid() != self._process:
            raise EngineError(
                f"The predictor of {self.spec.model!r} was opened in another process.",
                hint='Open it after the fork, or start processes with multiprocessing\'s "spawn".',
            )

    def __enter__(self) -> CpuPredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Slot:
    """A request and what fills it: one inference in flight shares nothing with another."""

    def __init__(self, request: Request, spec: ModelSpec) -> None:
        self.request = request
        self._input = spec.input.name
        self._preprocessor = Preprocessor(spec.input)

    def fill(self, frames: Sequence[Frame]) -> list[FrameTransform]:
        rows = self.request.inputs[self._input]
        return [self._preprocessor(f.yuv or f.image, row) for f, row in zip(frames, rows, strict=False)]


class _Hung(Exception):
    """An inference that did not come back in time."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


class CpuTicket(Ticket):
    """A request under way, whose it is, and where its frames lie in the input."""

    def __init__(self, predictor: CpuPredictor, slot: _Slot, transforms: list[FrameTransform]) -> None:
        super().__init__(predictor.stages)
        self.predictor = predictor
        self.slot = slot
        self.transforms = transforms


def open_predictor(
    path: str | Path,
    *,
    thresholds: Thresholds | None = None,
    in_flight: int | None = None,
    batch: int | None = None,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    streams: int = 1,
    spec: ModelSpec | None = None,
) -> CpuPredictor:
    """The predictor for an artifact: arguments and errors of `open_engine` and `CpuPredictor`."""
    opened = open_engine(
        path, engine=engine, device=device, threads=threads, precision=precision, streams=streams, spec=spec
    )
    try:
        return CpuPredictor(opened, thresholds=thresholds, in_flight=in_flight, batch=batch)
    except BaseException:
        opened.close()
        raise
