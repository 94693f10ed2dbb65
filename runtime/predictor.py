"""From frames to results: what the pipeline drives, without ever touching a tensor.

A Predictor takes frames and hands out a ticket at once; the ticket is later exchanged for results. At
most `in_flight` tickets are out; `submit` waits for one to be collected. That shape fits

- `CpuPredictor`: preprocess into a free request's input, infer, postprocess;
- a two-stage detector: the proposal stage runs in `submit` or `collect`, the second engine in `collect`;
- a CUDA predictor: `submit` uploads and enqueues everything on a stream, `collect` waits for its event
  and reads back the final results. One thread submits, another collects: it must make its context
  current in both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import EngineError
from edgedet.contract.postprocess import postprocess
from edgedet.contract.preprocess import FrameTransform, Preprocessor
from edgedet.contract.results import Frame, Result
from edgedet.contract.spec import ModelSpec, Thresholds
from edgedet.runtime.engines.engine import Engine, Request, open_engine


class Ticket:
    """Frames on their way through a predictor. `times`: seconds by stage, complete after `collect`."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.times: dict[str, float] = dict.fromkeys(stages, 0.0)


class Predictor(Protocol):
    """See the module's docstring. `submit` and `collect` may be called from one thread each."""

    @property
    def spec(self) -> ModelSpec:
        """The model, with the thresholds in force."""

    @property
    def name(self) -> str:
        """What computes, for example "OpenVINO CPU fp32"."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The names in `Ticket.times`, in order; "engine" is one of them."""

    @property
    def streams(self) -> int:
        """How many inferences run at the same time."""

    @property
    def in_flight(self) -> int:
        """How many tickets may be out."""

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        """Start on 1 to `batch` frames; their pixels are not needed once this returns.

        Waits while `in_flight` tickets are out. Raises EngineError: too many frames for the batch.
        """

    def collect(self, ticket: Any) -> list[Result]:
        """Wait for a ticket, in the order of submission: one result per frame. Frees it in any case."""

    def close(self) -> None:
        """Free everything, the engine included. No ticket may be out."""


class CpuPredictor:
    """Preprocess -> engine -> postprocess on the CPU (lecture, "YOLO" and "SSD": one-stage detectors).

    Args:
        engine: open; closed with the predictor.
        thresholds: instead of the spec's own.
        in_flight: tickets that may be out. The default, one more than the engine's streams, keeps a
            preprocessed frame ready for the moment the engine is free.
    """

    stages = ("preprocess", "engine", "postprocess")

    def __init__(
        self, engine: Engine, *, thresholds: Thresholds | None = None, in_flight: int | None = None
    ) -> None:
        self.engine = engine
        self.spec = engine.spec.with_(thresholds=thresholds) if thresholds else engine.spec
        self.name = engine.name
        self.streams = engine.streams
        self.in_flight = in_flight or engine.streams + 1
        self.batch = engine.spec.input.batch or 1
        self._preprocessor = Preprocessor(self.spec.input)
        self._free: SimpleQueue[Request] = SimpleQueue()
        for _ in range(self.in_flight):
            self._free.put(engine.request(self.batch))

    def submit(self, frames: Sequence[Frame]) -> CpuTicket:
        """See Predictor."""
        if not 0 < len(frames) <= self.batch:
            raise EngineError(f"Got {len(frames)} frames at once, expected 1 to {self.batch}.")
        request = self._free.get()
        try:
            started = time.perf_counter()
            rows = request.inputs[self.spec.input.name]
            transforms = [
                self._preprocessor(frame.image, row) for frame, row in zip(frames, rows, strict=False)
            ]
            ticket = CpuTicket(self.stages, request, transforms)
            ticket.times["preprocess"] = time.perf_counter() - started
            request.start()
        except BaseException:
            self._free.put(request)
            raise
        return ticket

    def collect(self, ticket: CpuTicket) -> list[Result]:
        """See Predictor."""
        try:
            ticket.times["engine"] = ticket.request.wait()
            started = time.perf_counter()
            results = postprocess(ticket.request.outputs, self.spec, ticket.transforms)
            ticket.times["postprocess"] = time.perf_counter() - started
            return list(results)
        finally:
            self._free.put(ticket.request)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Result:
        """One image (H, W, 3) uint8 BGR -> its result."""
        return self.collect(self.submit([Frame(image, 0, time.monotonic(), "")]))[0]

    def close(self) -> None:
        """See Predictor."""
        while not self._free.empty():
            self._free.get()
        self.engine.close()

    def __enter__(self) -> CpuPredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CpuTicket(Ticket):
    """A request under way and where its frames lie in the input."""

    def __init__(self, stages: Sequence[str], request: Request, transforms: list[FrameTransform]) -> None:
        super().__init__(stages)
        self.request = request
        self.transforms = transforms


def open_predictor(
    path: str | Path,
    *,
    thresholds: Thresholds | None = None,
    in_flight: int | None = None,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    streams: int = 1,
) -> CpuPredictor:
    """The predictor for an artifact: arguments and errors of `open_engine` and `CpuPredictor`."""
    opened = open_engine(
        path, engine=engine, device=device, threads=threads, precision=precision, streams=streams
    )
    return CpuPredictor(opened, thresholds=thresholds, in_flight=in_flight)
