"""From frames to results: what the pipeline drives, without ever touching a tensor.

A Predictor takes frames and hands out a ticket at once; the ticket is later exchanged for results. At most
`in_flight` tickets are out. That shape fits

- `CpuPredictor`: preprocess into a free request's input, infer, postprocess;
- a two-stage detector: the proposal stage runs in `submit` or `collect`, the second engine in `collect`;
- a CUDA predictor: `submit` uploads and enqueues everything on a stream, `collect` waits for its event
  and reads back the final results.

Any number of threads may submit, and any may collect: a ticket belongs to its own slot, so results are never
mixed. Every wait ends: with a free slot, with the engine's answer, with `timeout`, or with an EngineError
from whoever closed the predictor. Only a call into a library that never comes back holds its own caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edgedet.contract.errors import EdgedetError, EngineError, EngineTimeout
from edgedet.contract.frames import Frame, Image
from edgedet.contract.numbers import check_count, check_number
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import FrameTransform
from edgedet.contract.results import Result
from edgedet.contract.spec import ModelSpec, Thresholds
from edgedet.runtime.engines.engine import Engine, open_engine, stages_of
from edgedet.runtime.request_slot import RequestSlot
from edgedet.runtime.slots import GRACE, Slots

TIMEOUT = 60.0
"""Seconds that an inference may take before its engine counts as hung: far more than any network needs."""


class Ticket:
    """Frames on their way through a predictor. `times`: seconds by stage, complete after `collect`."""

    def __init__(self, predictor: Predictor) -> None:
        self.times: dict[str, float] = dict.fromkeys(predictor.stages, 0.0)
        self._predictor = predictor
        self._claimed = threading.Lock()

    def claim(self, predictor: Predictor) -> None:
        """Whoever collects calls this first; EngineError at the second time, or where it is another's."""
        if predictor is not self._predictor:
            raise EngineError("This ticket belongs to another predictor.")
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

        Raises EngineError: the predictor was closed, its engine hangs, or all slots are held by tickets that
        nobody collects.
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
        """Free everything, the engine included, when what is in flight has come back; wakes all who wait.

        What hangs is given up after `timeout`. A second call does nothing, nor does one in a forked child.
        """


class CpuPredictor:
    """Preprocess -> engine -> postprocess on the CPU.

    Args:
        engine: open; closed with the predictor.
        thresholds: instead of the spec's own.
        in_flight: tickets that may be out. The default, one more than the engine's streams, keeps a
            preprocessed frame ready for the moment the engine is free.
        batch: frames in one inference; the spec's own where that is fixed, else 1 by default.
        timeout: seconds that an inference may take before its engine counts as hung, and that all slots may
            be held without one coming back.

    Raises:
        SpecError: the spec does not fit its own tensors. EngineError: the batch is not the model's.
        UsageError: a number below 1, or a timeout that is none.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        thresholds: Thresholds | None = None,
        in_flight: int | None = None,
        batch: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        check_count("in_flight", in_flight)
        check_count("batch", batch)
        check_number("timeout", timeout, above=True, most=threading.TIMEOUT_MAX)
        self.engine = engine
        self.spec = engine.spec.with_(thresholds=thresholds) if thresholds else engine.spec
        self.name = engine.name
        made = ("proposals",) if self.spec.proposals else ()
        self.stages: tuple[str, ...] = ("preprocess", *made, "network", "postprocess")
        self.streams = engine.streams
        self.in_flight = engine.streams + 1 if in_flight is None else in_flight
        self.batch = (engine.spec.input.batch or 1) if batch is None else batch
        self.timeout = timeout
        self._postprocess = make_postprocessor(self.spec, stages_of(engine))
        self._out: set[CpuTicket] = set()
        self._idle = threading.Condition()
        self._closed = self._hung = False
        with self._named():
            slots = [RequestSlot(engine.request(self.batch), self.spec) for _ in range(self.in_flight)]
        self._slots = Slots(slots)

    def reserve(self) -> RequestSlot:
        """See Predictor."""
        self._check_process()
        return self._slots.take(self.timeout)

    def release(self, slot: RequestSlot) -> None:
        """See Predictor."""
        self._check_process()
        self._slots.release(slot)

    def submit(self, frames: Sequence[Frame], slot: RequestSlot | None = None) -> CpuTicket:
        """See Predictor."""
        slot = slot or self.reserve()
        self._check_process()
        self._slots.use(slot)
        ticket = CpuTicket(self, slot)
        try:
            if not 0 < len(frames) <= self.batch:
                raise EngineError(f"Got {len(frames)} frames at once, expected 1 to {self.batch}.")
            if slot.running:
                self._recover(slot)
            ticket.transforms = slot.fill(frames, ticket.times)
            with self._idle:
                if self._closed:
                    raise self._closed_error()
                self._out.add(ticket)
            with self._named():
                slot.start()
        except BaseException:
            self._finish(ticket)
            raise
        if self._started(ticket):
            return ticket
        self._abandon(ticket)  # the one who closed it meanwhile could not wait for what was not started
        raise self._closed_error()

    def _started(self, ticket: CpuTicket) -> bool:
        """From now on others may wait for it; False if the predictor is closed."""
        with self._idle:
            ticket.started = True
            return not self._closed

    def collect(self, ticket: CpuTicket) -> list[Result]:
        """See Predictor."""
        self._check_process()
        with self._idle:
            if self._closed and (ticket.abandoned or ticket in self._out):
                raise self._closed_error()
            ticket.claim(self)
        hung = False
        try:
            with self._named():
                ticket.times["network"] = self._wait(ticket.slot)
                began = time.perf_counter()
                results = self._postprocess(ticket.slot.outputs, ticket.transforms)
            ticket.times["postprocess"] = time.perf_counter() - began
            return results
        except EngineTimeout as e:
            hung = True
            self._slots.end(e)
            raise
        finally:
            self._finish(ticket, hung=hung)

    def _wait(self, slot: RequestSlot) -> float:
        """As `Request.wait`; after EngineTimeout the request is the engine's for good."""
        if self._hung:
            return slot.wait(0)
        try:
            return slot.wait(self.timeout)
        except EngineTimeout as e:
            try:
                return slot.wait(min(self.timeout, GRACE))
            except EngineTimeout:
                raise e from None

    def _recover(self, slot: RequestSlot) -> None:
        """Whoever waited for this slot was interrupted (Ctrl-C): its engine may still write into it."""
        try:
            self._wait(slot)
        except EngineTimeout as e:
            self._hung = True
            self._slots.end(e)
            raise
        except Exception:
            slot.running = False

    def _finish(self, ticket: CpuTicket, *, hung: bool = False) -> None:
        """Its slot is free, and the ticket no longer out; neither where the engine hangs on it."""
        with self._idle:
            if hung:
                self._hung = True
            else:
                self._out.discard(ticket)
            self._idle.notify_all()
        if not hung:
            self._slots.give(ticket.slot)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What an engine or a decoder raises that is no named error becomes one."""
        try:
            yield
        except EdgedetError:
            raise
        except Exception as e:
            raise EngineError(f"{self.name} failed: {type(e).__name__}: {e}.") from e

    def __call__(self, image: Image) -> Result:
        """One image (H, W, 3) uint8 BGR -> its result.

        Raises ImageError: it is of another type or shape. EngineError as `submit` and `collect`.
        """
        return self.collect(self.submit([Frame(image)]))[0]

    def close(self) -> None:
        """See Predictor."""
        try:
            self._check_process()
        except EngineError:
            return  # the engine's threads are in the other process, and so is what must be freed
        with self._idle:
            if self._closed:
                return
            self._closed = True
            waiting = [t for t in self._out if t.started]
        self._slots.end(self._closed_error())
        for ticket in waiting:
            self._abandon(ticket)
        with self._idle:
            self._idle.wait_for(lambda: not self._out or self._hung, self.timeout + GRACE)
            idle = not self._out and not self._hung
        if idle:  # else an engine that hangs still writes into its buffers: better a leak than a crash
            with self._named():
                self.engine.close()

    def _abandon(self, ticket: CpuTicket) -> None:
        """Engines write into buffers until they are waited for; what another thread collects is its own."""
        with self._idle:
            try:
                ticket.claim(self)
            except EngineError:
                return
            ticket.abandoned = True
        hung = False
        try:
            with self._named():
                self._wait(ticket.slot)
        except EngineError as e:  # nobody is left who wants to know
            hung = isinstance(e, EngineTimeout)
        finally:
            self._finish(ticket, hung=hung)

    def _closed_error(self) -> EngineError:
        return EngineError(f"The predictor of {self.spec.model!r} ({self.name}) is closed.")

    def _check_process(self) -> None:
        self._slots.check_process(f"The predictor of {self.spec.model!r}")

    def __enter__(self) -> CpuPredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CpuTicket(Ticket):
    """A request, how far it has come, and where its frames lie in the input."""

    def __init__(self, predictor: CpuPredictor, slot: RequestSlot) -> None:
        super().__init__(predictor)
        self.slot = slot
        self.transforms: list[FrameTransform] = []
        self.started = False
        self.abandoned = False
        """Whether the predictor was closed before it was collected."""


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
    timeout: float = TIMEOUT,
) -> CpuPredictor:
    """The predictor for an artifact: arguments and errors of `open_engine` and `CpuPredictor`."""
    opened = open_engine(
        path, engine=engine, device=device, threads=threads, precision=precision, streams=streams, spec=spec
    )
    try:
        return CpuPredictor(opened, thresholds=thresholds, in_flight=in_flight, batch=batch, timeout=timeout)
    except BaseException:
        opened.close()
        raise
