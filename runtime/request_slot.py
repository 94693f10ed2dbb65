"""An engine's request and what fills its inputs: one inference in flight shares nothing with another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from edgedet.contract.errors import EngineTimeout
from edgedet.contract.frames import Frame
from edgedet.contract.preprocess import FrameTransform, Preprocessor
from edgedet.contract.proposals import RegionInput, runs
from edgedet.contract.spec import ModelSpec
from edgedet.runtime.engines.engine import Array, Request


class RequestSlot:
    """A request and what fills it: one inference in flight shares nothing with another.

    Where one run of the graph takes only some of the proposals (`spec.Proposals.rows`), an inference is as
    many runs as the frames' proposals need, one after the other; each starts when the one before was waited
    for. Their outputs are gathered in buffers that are made once.
    """

    def __init__(self, request: Request, spec: ModelSpec) -> None:
        self.request = request
        self.running = False
        self.outputs: Mapping[str, Array] = request.outputs
        """By tensor name; valid from the end of `wait` to the next `start`."""
        self._input = spec.input.name
        self._preprocessor = Preprocessor(spec.input)
        self._regions = RegionInput(spec) if spec.proposals else None
        self._runs: list[slice] = []
        self._done, self._seconds = 0, 0.0
        self._gathered: dict[str, Array] = {}
        if self._regions is not None and spec.proposals is not None:
            self._proposals = request.inputs[self._regions.name]
            self._rows, count = spec.proposals.a_run, spec.proposals.count
            if self._rows < count:
                batch = len(self._proposals)
                self._proposals = np.zeros((batch, count, 4), np.float32)
                self._gathered = {
                    o.name: np.zeros((batch, count, *o.shape[2:]), o.dtype)  # type: ignore[arg-type]
                    for o in spec.outputs
                }

    def fill(self, frames: Sequence[Frame], times: dict[str, float]) -> list[FrameTransform]:
        """Bring frames into the request's inputs; `times` gets the seconds that it took, by stage."""
        began = time.perf_counter()
        rows = self.request.inputs[self._input]
        transforms = [self._preprocessor(f.yuv or f.image, row) for f, row in zip(frames, rows, strict=False)]
        filled = time.perf_counter()
        times["preprocess"] = filled - began
        if self._regions is not None:
            for frame, transform, row in zip(frames, transforms, self._proposals, strict=False):
                self._regions(frame.image, transform, row)
            self._proposals[len(frames) :] = 0
            self._runs = runs(self._proposals, self._rows)
            times["proposals"] = time.perf_counter() - filled
        return transforms

    def start(self) -> None:
        """As `Request.start`; what was filled in may be started any number of times."""
        self.running = True
        self._done, self._seconds = 0, 0.0
        try:
            self._start_run()
        except Exception:
            self.running = False
            raise

    def wait(self, timeout: float) -> float:
        """As `Request.wait`, of all runs together; `running` stays where the request has not ended.

        timeout: seconds that one run may take.
        """
        try:
            self._seconds += self.request.wait(timeout)
            while self._another():
                self._start_run()
                self._seconds += self.request.wait(timeout)
        except EngineTimeout:
            raise
        except Exception:
            self.running = False
            raise
        self.running = False
        return self._seconds

    def _start_run(self) -> None:
        """Start on the rows of the run whose turn it is."""
        if self._gathered and self._regions is not None:
            np.copyto(self.request.inputs[self._regions.name], self._proposals[:, self._runs[self._done]])
        self.request.start()

    def _another(self) -> bool:
        """Keep what a run gave; whether there is another one."""
        if not self._gathered:
            self.outputs = self.request.outputs  # an engine may give other arrays each time
            return False
        run = self._runs[self._done]
        for name, array in self._gathered.items():
            array[:, run] = self.request.outputs[name]
        self._done += 1
        if self._done < len(self._runs):
            return True
        # what was left out has no rows: nothing of an earlier frame is seen again
        self.outputs = {name: array[:, : run.stop] for name, array in self._gathered.items()}
        return False
