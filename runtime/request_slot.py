"""An engine's request and what fills its inputs: one inference in flight shares nothing with another."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgedet.contract.errors import EngineTimeout
from edgedet.contract.frames import Frame
from edgedet.contract.preprocess import FrameTransform, Preprocessor
from edgedet.contract.proposals import RegionInput
from edgedet.contract.spec import ModelSpec
from edgedet.runtime.engines.engine import Request


class RequestSlot:
    """A request and what fills it: one inference in flight shares nothing with another."""

    def __init__(self, request: Request, spec: ModelSpec) -> None:
        self.request = request
        self.running = False
        self._input = spec.input.name
        self._preprocessor = Preprocessor(spec.input)
        self._regions = RegionInput(spec) if spec.proposals else None

    def fill(self, frames: Sequence[Frame], times: dict[str, float]) -> list[FrameTransform]:
        """Bring frames into the request's inputs; `times` gets the seconds that it took, by stage."""
        began = time.perf_counter()
        rows = self.request.inputs[self._input]
        transforms = [self._preprocessor(f.yuv or f.image, row) for f, row in zip(frames, rows, strict=False)]
        filled = time.perf_counter()
        times["preprocess"] = filled - began
        if self._regions is not None:
            proposals = self.request.inputs[self._regions.name]
            for frame, transform, row in zip(frames, transforms, proposals, strict=False):
                self._regions(frame.image, transform, row)
            proposals[len(frames) :] = 0
            times["proposals"] = time.perf_counter() - filled
        return transforms

    def start(self) -> None:
        """As `Request.start`."""
        self.running = True
        try:
            self.request.start()
        except Exception:
            self.running = False
            raise

    def wait(self, timeout: float) -> float:
        """As `Request.wait`; `running` stays where the request has not ended."""
        try:
            seconds = self.request.wait(timeout)
        except EngineTimeout:
            raise
        except Exception:
            self.running = False
            raise
        self.running = False
        return seconds
