"""OpenVINO: the default engine on CPUs.

Why its settings: the CPU plugin would choose bf16 by itself where the machine has it; edgedet asks for
fp32 unless told otherwise, so that a figure means the same on every machine and engine. One stream over
all cores (the LATENCY hint) by default. Threads are not pinned to cores, because capture and
preprocessing share those cores. Compiled models are not cached on disk.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgedet.contract.errors import EngineError, MissingDependency
from edgedet.contract.spec import ModelSpec
from edgedet.runtime.engines.engine import (
    Array,
    Engine,
    check_graph,
    checked_batch,
    checked_inputs,
    concrete,
    inputs_of,
    late,
)
from edgedet.runtime.engines.onnx_metadata import engine_argument

# Importing openvino would start a process that reports the import, with an id kept under HOME, to an
# analytics server (openvino.tools.ovc). Where it cannot find this module, it uses a stub that sends nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino as ov
except ImportError as e:
    raise MissingDependency("OpenVINO", extra="cpu", purpose="The engine 'openvino'") from e

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@functools.cache
def _core() -> Any:
    """The one Core of the process, kept to its end.

    Its CPU plugin gives the thread that makes it a signal stack, and unmaps that when it goes. With two
    Cores, closed in the order they were opened, the thread is left with a stack that is no more: the next
    Ctrl-C is a segmentation fault.
    """
    return ov.Core()


def open_model(
    path: Path,
    spec: ModelSpec,
    *,
    device: str | None,
    threads: int | None,
    precision: str | None,
    streams: int,
) -> OpenVinoEngine:
    """See `edgedet.runtime.open_engine`."""
    return OpenVinoEngine(path, spec, device or "CPU", threads, precision or "fp32", streams)


class OpenVinoEngine:
    """An Engine (edgedet.runtime.engines.engine) over one OpenVINO device."""

    def __init__(
        self, path: Path, spec: ModelSpec, device: str, threads: int | None, precision: str, streams: int
    ) -> None:
        self.spec = spec
        self.stages: dict[str, Engine] = {}
        self.streams = streams
        core = self._core = _core()
        self._device = device
        _check_device(core, device, precision)
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "NUM_STREAMS": str(streams),
        }
        if device == "CPU":
            self._options["ENABLE_CPU_PINNING"] = "NO"
            if threads is not None:
                self._options["INFERENCE_NUM_THREADS"] = str(threads)
        label = {"fp32": spec.precision if spec.precision == "int8" else "fp32"}.get(precision, precision)
        if spec.precision == "int8" and precision != "fp32":
            label = f"int8+{precision}"
        self.name = f"OpenVINO {device} {label}"
        try:
            model = engine_argument(path)
            self._model: Any = core.read_model(io.BytesIO(model) if isinstance(model, bytes) else model)
            _keep_ties_in_order(self._model)
            inputs, outputs = _tensors(self._model.inputs), _tensors(self._model.outputs)
        except Exception as e:  # RuntimeError; UnicodeDecodeError where its message quotes the file
            raise EngineError(f"OpenVINO cannot read {path}: {_last_line(e)}.") from e
        check_graph(spec, inputs, outputs, path)
        self._compiled: dict[int, Any] = {}
        self._direct: dict[int, Any] = {}
        self._ends: deque[float] = deque(maxlen=streams)
        self._ends_lock = threading.Lock()
        self._infer_lock = threading.Lock()
        self._compile(spec.input.batch or 1)

    def _compile(self, batch: int) -> Any:
        """The model for one batch size: a graph of static shapes runs faster than one of free ones."""
        if self._model is None:
            raise EngineError(f"{self.name} is closed.")
        if batch not in self._compiled:
            model = self._model
            try:
                if any(port.partial_shape.is_dynamic for port in model.inputs):
                    model = model.clone()
                    tensors = inputs_of(self.spec).items()
                    model.reshape({name: list(concrete(shape, batch)) for name, (shape, _) in tensors})
                if any(port.partial_shape.is_dynamic for port in (*model.inputs, *model.outputs)):
                    raise RuntimeError("its tensors have no fixed shapes")
                self._compiled[batch] = self._core.compile_model(model, self._device, self._options)
            except Exception as e:
                raise EngineError(
                    f"OpenVINO cannot compile {self.spec.model!r} for {self._device}: {_last_line(e)}."
                ) from e
        return self._compiled[batch]

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See Engine. The input is read where it lies; the outputs are new arrays."""
        arrays, batch = checked_inputs(self.spec, inputs)
        with self._infer_lock:
            return self._infer(arrays, batch)

    def _infer(self, arrays: dict[str, Array], batch: int) -> dict[str, Array]:
        compiled = self._compile(batch)
        request = self._direct.get(batch)
        if request is None:
            request = self._direct[batch] = compiled.create_infer_request()
        results = {}
        for name, array in arrays.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        for port in compiled.outputs:
            array = np.empty(tuple(port.shape), port.element_type.to_dtype())
            results[_port_name(port, self.spec)] = array
            request.set_tensor(port, ov.Tensor(array, shared_memory=True))
        try:
            request.infer()
        except RuntimeError as e:
            raise EngineError(f"{self.name} failed: {_last_line(e)}.") from e
        return {o.name: results[o.name] for o in self.spec.outputs}

    def request(self, batch: int = 1) -> OpenVinoRequest:
        """See Engine."""
        return OpenVinoRequest(self, self._compile(checked_batch(self.spec, batch)))

    def served(self, started: float, ended: float) -> float:
        """Seconds of inference alone: from when a stream was free for it, not from when it queued."""
        began = started
        with self._ends_lock:
            if len(self._ends) == self.streams:
                began = max(started, self._ends[0])
            self._ends.append(ended)
        return max(ended - began, 0.0)

    def close(self) -> None:
        """See Engine."""
        for stage in self.stages.values():
            stage.close()
        self._direct.clear()
        self._compiled.clear()
        self._model = None

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenVinoRequest:
    """A Request (edgedet.runtime.engines.engine): OpenVINO reads and writes the numpy buffers in place."""

    def __init__(self, engine: OpenVinoEngine, compiled: Any) -> None:
        self._engine = engine
        self._request = compiled.create_infer_request()
        self._started = 0.0
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        for ports, buffers in ((compiled.inputs, self.inputs), (compiled.outputs, self.outputs)):
            for port in ports:
                array = np.zeros(tuple(port.shape), port.element_type.to_dtype())
                buffers[_port_name(port, engine.spec)] = array
                self._request.set_tensor(port, ov.Tensor(array, shared_memory=True))

    def start(self) -> None:
        """See Request."""
        self._started = time.perf_counter()
        try:
            self._request.start_async()
        except RuntimeError as e:
            raise EngineError(f"{self._engine.name} failed: {_last_line(e)}.") from e

    def wait(self, timeout: float | None = None) -> float:
        """See Request. The end is taken from OpenVINO's own clock of the request, not from when we woke."""
        try:
            if timeout is None:
                self._request.wait()
            elif not self._request.wait_for(max(0, round(1e3 * timeout))):
                raise late(self._engine.name, timeout)
        except RuntimeError as e:
            raise EngineError(f"{self._engine.name} failed: {_last_line(e)}.") from e
        return self._engine.served(self._started, self._started + self._request.latency / 1e3)


def _keep_ties_in_order(model: Any) -> None:
    """Of equal values TopK takes the first, as ONNX has it: OpenVINO's reader leaves that open.

    Where all scores are alike, a detector would otherwise look at other regions than on other engines.
    """
    from openvino import opset11

    for op in model.get_ops():
        if op.get_type_name() != "TopK" or op.get_attributes()["stable"]:
            continue
        kind = [op.get_attributes()[name] for name in ("axis", "mode", "sort", "index_element_type")]
        again = opset11.topk(op.input_value(0), op.input_value(1), *kind, stable=True)
        for old, new in zip(op.outputs(), again.outputs(), strict=True):
            names = old.get_names()
            old.replace(new)
            new.add_names(names)


def _check_device(core: Any, device: str, precision: str) -> None:
    family = device.split(".")[0].split(":")[0]
    if family not in {d.split(".")[0] for d in core.available_devices} | {"AUTO", "HETERO", "MULTI"}:
        raise EngineError(
            f"OpenVINO has no device {device!r} here, only: {', '.join(core.available_devices)}.",
        )
    if precision == "exact":
        raise EngineError(
            "OpenVINO fuses INT8 into kernels that differ from CPU to CPU: it has no exact arithmetic.",
            hint="Use the engine 'onnxruntime' for it.",
        )
    if precision not in PRECISIONS:
        raise EngineError(f"OpenVINO knows no precision {precision!r}, only: {', '.join(PRECISIONS)}.")
    if precision == "fp32" or family in ("AUTO", "HETERO", "MULTI"):
        return
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if precision.upper() not in able:
        raise EngineError(
            f"This {device} has no {precision} arithmetic (it has {', '.join(able)}).",
            hint="Run it in fp32, or in int8: edgedet-export --int8.",
        )


def _tensors(ports: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
    return {
        name: (
            tuple(d.get_length() if d.is_static else None for d in port.partial_shape),
            port.element_type.to_dtype().name,
        )
        for port in ports
        for name in port.names
    }


def _port_name(port: Any, spec: ModelSpec) -> str:
    """The spec's name of a tensor; OpenVINO may know it by several."""
    known = {*inputs_of(spec), *(o.name for o in spec.outputs)}
    return next((n for n in port.names if n in known), str(port.any_name))


def _last_line(error: BaseException) -> str:
    """The part of an OpenVINO message that says what is wrong: its last line with words."""
    lines = [line.strip() for line in str(error).splitlines() if any(c.isalpha() for c in line)]
    return lines[-1].rstrip(".") if lines else "no reason given"
