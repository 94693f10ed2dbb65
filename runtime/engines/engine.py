"""What runs a network: the Engine protocol, and `open_engine`, which picks one for a file.

An engine takes and gives named numpy arrays and carries the ModelSpec of its artifact; it knows nothing
of frames or boxes. Calibration and evaluation call `infer`; the pipeline, through a predictor, keeps
several `Request`s in flight.

To add an engine: one file `backend_<library>.py` with an `open` of the signature below, one line in
ENGINES, one extra in pyproject.toml.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import EngineError, MissingDependency, SpecError, UnknownName
from edgedet.contract.spec import ModelSpec
from edgedet.runtime.engines.onnx_metadata import read_spec

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int | None, ...]

ENGINES: dict[str, tuple[str, str]] = {
    "openvino": ("openvino", "edgedet.runtime.engines.backend_openvino"),
    "onnxruntime": ("onnxruntime", "edgedet.runtime.engines.backend_onnxruntime"),
}
"""Engine name -> (the library it needs, the module that opens it), in order of preference."""

PLAN_SUFFIXES = (".engine", ".plan", ".trt")


class Request(Protocol):
    """One inference that can be in flight, with buffers of its own.

    Write into `inputs`, `start`, later `wait`, then read `outputs`: the arrays stay the same for the
    request's life. start and wait may be called from two threads, in turn.
    """

    @property
    def inputs(self) -> Mapping[str, Array]:
        """By tensor name, of the request's batch size."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """By tensor name; valid from `wait` to the next `start`."""

    def start(self) -> None:
        """Begin; returns at once."""

    def wait(self) -> float:
        """Return when done: the seconds the engine itself spent on it, time in the queue not counted.

        Raises EngineError if the inference failed.
        """


class Engine(Protocol):
    """A network ready to run. One thread at a time may call `infer`."""

    @property
    def spec(self) -> ModelSpec:
        """What its tensors mean."""

    @property
    def name(self) -> str:
        """Library, device and precision, for example "OpenVINO CPU bf16"."""

    @property
    def streams(self) -> int:
        """How many inferences it runs at the same time."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Tensors by name -> tensors by name, the caller's to keep.

        Raises EngineError: a tensor is missing, or has another shape or type; the inference failed.
        """

    def request(self, batch: int = 1) -> Request:
        """A new request. `batch` is the spec's own where that is fixed."""

    def close(self) -> None:
        """Free everything; a second call does nothing. No request may be in flight."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_engine(
    path: str | Path,
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    streams: int = 1,
) -> Engine:
    """Open an artifact that edgedet exported.

    Args:
        path: the .onnx file.
        engine: "auto" (OpenVINO where installed, else ONNX Runtime) or a name of ENGINES.
        device: the library's own name of a device; the CPU by default.
        threads: CPU threads for inference; the library's choice (one per core) by default.
        precision: the arithmetic of what is not quantised, "fp32" (default, so that figures are
            comparable between engines) or "bf16" (OpenVINO on CPUs that have it); "exact" runs the graph
            as it is written, without INT8 kernels, the same on every CPU (ONNX Runtime; slow).
        streams: inferences at the same time that share the threads: 1 answers soonest, one per core
            gives most frames a second.

    Raises:
        EngineError: no such file, not an ONNX file, or one that the engine or this machine cannot run.
        SpecError: an ONNX file without a spec. MissingDependency: no engine is installed.
        UnknownName: no engine has that name.
    """
    path = Path(path)
    if engine != "auto" and engine not in ENGINES:
        raise UnknownName("engine", engine, [*ENGINES, "auto"])
    spec = artifact_spec(path)
    chosen = _first_installed() if engine == "auto" else engine
    backend = importlib.import_module(ENGINES[chosen][1])
    opened: Engine = backend.open_model(
        path, spec, device=device, threads=threads, precision=precision, streams=streams
    )
    return opened


def artifact_spec(path: Path) -> ModelSpec:
    """The spec of a file that an engine here could open, checked without opening one.

    Raises EngineError and SpecError like `open_engine`.
    """
    if path.suffix.lower() in PLAN_SUFFIXES:
        raise EngineError(
            f"{path} is a TensorRT plan: it needs an NVIDIA GPU and the TensorRT that built it.",
            hint="On a CPU run the .onnx file it was built from.",
        )
    if not path.exists():
        name = path.name
        bare = path.suffix == "" and path.parent == Path()
        hint = (
            f"Export the model first: edgedet-export --model {name}, then give the .onnx file it writes."
            if bare
            else "Check the path, or export the model with edgedet-export."
        )
        raise EngineError(f"There is no model file {path}.", hint=hint)
    if not path.is_file():
        raise EngineError(f"{path} is not a file.", hint="Give the .onnx file that edgedet-export wrote.")
    return read_spec(path)


def _first_installed() -> str:
    for name, (library, _) in ENGINES.items():
        if importlib.util.find_spec(library) is not None:
            return name
    missing = MissingDependency("OpenVINO or ONNX Runtime", extra="cpu", purpose="Running a network")
    missing.hint = (
        "Install one: pip install 'edgedet[cpu]' (OpenVINO, faster) or pip install 'edgedet[onnxruntime]'"
    )
    raise missing


def concrete(shape: Shape, batch: int) -> tuple[int, ...]:
    """A tensor's shape with its free (first) axis filled in."""
    return tuple(batch if d is None else d for d in shape)


def checked_batch(spec: ModelSpec, batch: int) -> int:
    """`batch` if the spec allows it; EngineError otherwise."""
    fixed = spec.input.batch
    if batch < 1 or (fixed is not None and batch != fixed):
        raise EngineError(
            f"A batch of {batch} was asked for; {spec.model!r} takes {fixed or 'at least 1'}.",
            hint="Export the model with another batch size." if fixed else "",
        )
    return batch


def checked_inputs(spec: ModelSpec, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """The input arrays, contiguous, and their batch size; EngineError names what is not as the spec says."""
    expected = spec.input
    if set(inputs) != {expected.name}:
        raise EngineError(
            f"Got the input tensors {sorted(inputs)}, expected only {expected.name!r}.",
        )
    array = inputs[expected.name]
    if array.ndim != 4 or array.dtype != np.float32 or array.shape[1:] != (3, *expected.size):
        raise EngineError(
            f"Input {expected.name!r} is {array.dtype} {array.shape}, expected float32 "
            f"(N, 3, {expected.height}, {expected.width}).",
        )
    return {expected.name: np.ascontiguousarray(array)}, checked_batch(spec, len(array))


def check_graph(
    spec: ModelSpec, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], path: Path
) -> None:
    """That the graph has the tensors its spec describes; SpecError otherwise.

    Shapes have None where an axis is free; a free axis fits any number.
    """
    described = {spec.input.name: spec.input.shape}
    for kind, want, have in (
        ("input", described, inputs),
        ("output", {o.name: o.shape for o in spec.outputs}, outputs),
    ):
        for name, shape in want.items():
            got = have.get(name)
            if got is None or not _fits(shape, got):
                found = f"has {name!r} {got}" if got is not None else f"has {sorted(have)}"
                raise SpecError(
                    f"The spec of {path} describes the {kind} {name!r} {shape}, the graph {found}.",
                    hint="The spec belongs to another graph: export the model again.",
                )


def _fits(described: Shape, got: Shape) -> bool:
    return len(described) == len(got) and all(
        d is None or g is None or d == g for d, g in zip(described, got, strict=True)
    )
