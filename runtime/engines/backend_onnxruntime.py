"""ONNX Runtime: the portable engine.

Why its settings: idle worker threads do not spin, because capture and preprocessing share the cores.
A graph whose Q/DQ have float16 scales (typed for TensorRT) is run unfused: ONNX Runtime's fused INT8
kernels compute such graphs wrongly.

The precision "exact" runs the graph as it is written, node by node: what Q/DQ means, with sums in float32,
in which products of 8-bit integers are exact. No INT8 kernel takes part, so it says the same on every
CPU, while fused kernels differ from CPU to CPU: those without INT8 dot products add pairs of products in
saturating 16 bits. It is several times slower than either.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
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
from edgedet.runtime.engines.onnx_metadata import engine_argument, has_half_scales
from edgedet.runtime.hardware import cores

try:
    import onnxruntime as ort
except ImportError as e:
    raise MissingDependency("ONNX Runtime", extra="onnxruntime", purpose="The engine 'onnxruntime'") from e

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}
EXACT = "exact"
_FATAL_ONLY = 4  # we report errors ourselves; the library's own log stays silent


def open_model(
    path: Path,
    spec: ModelSpec,
    *,
    device: str | None,
    threads: int | None,
    precision: str | None,
    streams: int,
) -> OnnxRuntimeEngine:
    """See `edgedet.runtime.open_engine`."""
    device = (device or "CPU").upper()
    if device not in PROVIDERS or PROVIDERS[device] not in ort.get_available_providers():
        have = [d for d, p in PROVIDERS.items() if p in ort.get_available_providers()]
        raise EngineError(f"This ONNX Runtime has no device {device!r}, only: {', '.join(have)}.")
    if precision not in (None, "fp32", EXACT):
        raise EngineError(
            f"ONNX Runtime computes in the precision of the file, not in {precision!r}.",
            hint="Use the engine 'openvino', or export the model with --fp16.",
        )
    if precision == EXACT and device != "CPU":
        raise EngineError(f"Exact arithmetic runs on the CPU, not on {device}.", hint="Leave the device out.")
    return OnnxRuntimeEngine(path, spec, device, threads, streams, exact=precision == EXACT)


class OnnxRuntimeEngine:
    """An Engine (edgedet.runtime.engines.engine) over one ONNX Runtime session."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        device: str,
        threads: int | None,
        streams: int,
        *,
        exact: bool = False,
    ) -> None:
        self.spec = spec
        self.stages: dict[str, Engine] = {}
        self.streams = streams
        self.name = f"ONNX Runtime {device} {spec.precision}" + " exact" * exact
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None or streams > 1:
            options.intra_op_num_threads = max(1, (threads or cores()) // streams)
        if exact:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif has_half_scales(path):
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = ort.InferenceSession(
                engine_argument(path), options, providers=[PROVIDERS[device]]
            )
        except Exception as e:  # its errors share no base class of their own
            raise EngineError(f"ONNX Runtime cannot open {path}: {_first_line(e)}.") from e
        check_graph(spec, _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()), path)
        self._workers = ThreadPoolExecutor(streams, thread_name_prefix="edgedet-onnxruntime")

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession; EngineError after `close`."""
        if self._session is None:
            raise EngineError(f"{self.name} is closed.")
        return self._session

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See Engine."""
        arrays, _ = checked_inputs(self.spec, inputs)
        names = [o.name for o in self.spec.outputs]
        try:
            return dict(zip(names, self.session.run(names, arrays), strict=True))
        except EngineError:
            raise
        except Exception as e:
            raise EngineError(f"{self.name} failed: {_first_line(e)}.") from e

    def request(self, batch: int = 1) -> OnnxRuntimeRequest:
        """See Engine."""
        return OnnxRuntimeRequest(self, self._workers, checked_batch(self.spec, batch))

    def close(self) -> None:
        """See Engine."""
        for stage in self.stages.values():
            stage.close()
        self._workers.shutdown(wait=True)
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OnnxRuntimeRequest:
    """A Request (see `engine`): numpy buffers bound once, run on the engine's worker thread."""

    def __init__(self, engine: OnnxRuntimeEngine, workers: ThreadPoolExecutor, batch: int) -> None:
        self._engine = engine
        self._workers = workers
        self._future: Future[float] | None = None
        self._binding = engine.session.io_binding()
        spec = engine.spec
        self.inputs: dict[str, Array] = {}
        for name, (shape, dtype) in inputs_of(spec).items():
            array = self.inputs[name] = np.zeros(concrete(shape, batch), dtype)
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self.outputs: dict[str, Array] = {}
        for o in spec.outputs:
            array = self.outputs[o.name] = np.zeros(concrete(o.shape, batch), o.dtype)
            self._binding.bind_output(o.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def start(self) -> None:
        """See Request."""
        try:
            self._future = self._workers.submit(self._run)
        except RuntimeError as e:  # no more work is taken
            raise EngineError(f"{self._engine.name} is closed.") from e

    def _run(self) -> float:
        started = time.perf_counter()
        self._engine.session.run_with_iobinding(self._binding)
        return time.perf_counter() - started

    def wait(self, timeout: float | None = None) -> float:
        """See Request."""
        assert self._future is not None, "wait without start"
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            assert timeout is not None
            raise late(self._engine.name, timeout) from None
        except EngineError:
            raise
        except Exception as e:
            raise EngineError(f"{self._engine.name} failed: {_first_line(e)}.") from e


def _tensors(values: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
    return {
        v.name: (tuple(d if isinstance(d, int) else None for d in v.shape), _DTYPES.get(v.type, v.type))
        for v in values
    }


_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"} | {
    f"tensor({name})": name for name in ("uint8", "int8", "int32", "int64", "bool")
}
"""ONNX Runtime's names of types and numpy's."""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
