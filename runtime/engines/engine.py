"""What runs a network: the Engine protocol, and `open_engine`, which picks one for a file.

An engine takes and gives named numpy arrays and carries the ModelSpec of its artifact; it knows nothing
of frames or boxes. Calibration and evaluation call `infer`; the pipeline, through a predictor, keeps
several `Request`s in flight.

To add an engine: one file `backend_<library>.py` with an `open` of the signature below, one line in
ENGINES, one extra in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import EngineError, EngineTimeout, MissingDependency, SpecError, UnknownName
from edgedet.contract.reading import open_regular
from edgedet.contract.spec import ModelSpec, Stage, Tensor
from edgedet.runtime.engines.onnx_metadata import checked_metadata, read_spec
from edgedet.runtime.engines.plan_spec import read_plan_spec

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int | None, ...]

PLAN_SUFFIXES = (".engine", ".plan", ".trt")
"""How TensorRT plans are called."""


@dataclass(frozen=True)
class Backend:
    """An engine that can be asked for: the library it needs, the module that opens it, for which files."""

    library: str
    module: str
    suffixes: tuple[str, ...] = (".onnx",)

    @property
    def installed(self) -> bool:
        """Whether its library is there; nothing is imported."""
        return importlib.util.find_spec(self.library) is not None


ENGINES = {
    "openvino": Backend("openvino", "edgedet.runtime.engines.backend_openvino"),
    "onnxruntime": Backend("onnxruntime", "edgedet.runtime.engines.backend_onnxruntime"),
}
"""Engines by name, in order of preference among those that take a file."""


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

    def wait(self, timeout: float | None = None) -> float:
        """Return when done: the seconds the engine itself spent on it, time in the queue not counted.

        Raises EngineError if the inference failed, EngineTimeout if it is not done after `timeout` seconds
        (None: however long it takes): its buffers then still belong to the engine, and `wait` may be called
        again.
        """


class Engine(Protocol):
    """A network ready to run. Any thread may call `infer`, one at a time; requests are each their own."""

    @property
    def spec(self) -> ModelSpec:
        """What its tensors mean."""

    @property
    def name(self) -> str:
        """Library, device and precision, for example "OpenVINO CPU bf16"."""

    @property
    def streams(self) -> int:
        """How many inferences it runs at the same time."""

    @property
    def stages(self) -> Mapping[str, Engine]:
        """The engines of its spec's `stages`, by their names; closed with it."""

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
    spec: ModelSpec | None = None,
) -> Engine:
    """Open an artifact.

    Args:
        path: the file; its ending says which engines can take it. The graphs of its stages lie beside it.
        engine: "auto" (for .onnx: OpenVINO where installed, else ONNX Runtime) or a name of ENGINES.
        device: the library's own name of a device; the CPU by default.
        threads: CPU threads for inference; the library's choice (one per core) by default.
        precision: the arithmetic of what is not quantised, "fp32" (default, so that figures are
            comparable between engines) or "bf16" (OpenVINO on CPUs that have it); "exact" runs the graph
            as it is written, without INT8 kernels, the same on every CPU (ONNX Runtime; slow).
        streams: inferences at the same time that share the threads: 1 answers soonest, one per core
            gives most frames a second.
        spec: what the file's tensors mean, where it does not carry that itself; by default its own.

    Raises:
        EngineError: no such file, of another kind, or one that the engine or this machine cannot run.
        SpecError: a file without a spec, or one that does not fit it. MissingDependency: no engine is
            installed. UnknownName: no engine has that name.
    """
    path = Path(path)
    if engine != "auto" and engine not in ENGINES:
        raise UnknownName("engine", engine, [*ENGINES, "auto"])
    chosen = _choose(path, engine)
    if spec is None:
        spec = artifact_spec(path)
    elif not is_plan(path):
        checked_metadata(path)  # a damaged graph can end the process, whoever described it
    backend = importlib.import_module(chosen.module)

    def open_one(file: Path, what: ModelSpec) -> Any:
        return backend.open_model(
            file, what, device=device, threads=threads, precision=precision, streams=streams
        )

    opened = open_one(path, spec)
    try:
        for stage in spec.stages:
            file = path.with_name(stage.file)
            _check_stage(file, path, stage)
            opened.stages[stage.name] = open_one(file, stage_spec(spec, stage))
    except BaseException:
        opened.close()
        raise
    engine_: Engine = opened
    return engine_


@dataclass(frozen=True)
class StageInput:
    """The tensor of a stage that says how many images a batch has: what `spec.Input` is of a first graph."""

    name: str
    shape: Shape
    dtype: str
    batch: int | None


@dataclass(frozen=True)
class StageSpec:
    """What an engine needs to know of a stage's graph: the part of `ModelSpec` that describes tensors."""

    model: str
    precision: str
    input: StageInput
    extra_inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """As `ModelSpec.input_shapes`."""
        return {self.input.name: self.input.shape, **{t.name: t.shape for t in self.extra_inputs}}


def stage_spec(spec: ModelSpec, stage: Stage) -> ModelSpec:
    """The tensors of a stage, for the functions that open an engine."""
    first, *others = stage.inputs
    given = StageInput(first.name, first.shape, first.dtype, spec.input.batch)
    described = StageSpec(f"{spec.model} {stage.name}", spec.precision, given, tuple(others), stage.outputs)
    return cast(ModelSpec, described)  # no image goes in, nothing of it is decoded: only its tensors are read


def stages_of(engine: Any) -> dict[str, Callable[[Mapping[str, Array]], Mapping[str, Array]]]:
    """`infer` of each stage of an engine, for `make_postprocessor`."""
    stages: Mapping[str, Engine] = getattr(engine, "stages", {})
    return {name: opened.infer for name, opened in stages.items()}


def _check_stage(file: Path, path: Path, stage: Stage) -> None:
    """EngineError unless the second graph of an artifact lies beside it, whole."""
    if not file.is_file():
        raise EngineError(
            f"{path} needs {stage.file}, its stage {stage.name!r}, beside it: there is no such file.",
            hint="The two files are one artifact: copy both, or export the model again.",
        )
    if stage.sha256 and _sha256(file) != stage.sha256:
        raise EngineError(
            f"{file} is not the stage {stage.name!r} that {path} was made with (sha256).",
            hint="Copy both files of one export, or export the model again.",
        )
    if not is_plan(file):
        checked_metadata(file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(file) as f:
            while block := f.read(1 << 20):
                digest.update(block)
    except OSError as e:
        raise EngineError(f"Cannot read {file}: {e.strerror or e}.", hint="Check the path.") from e
    return digest.hexdigest()


def artifact_spec(path: Path) -> ModelSpec:
    """The spec of a file, checked without opening an engine.

    Raises EngineError and SpecError like `open_engine`.
    """
    check_file(path)
    return read_plan_spec(path) if is_plan(path) else read_spec(path)


def is_plan(path: Path) -> bool:
    """Whether the file is called like a TensorRT plan."""
    return path.suffix.lower() in PLAN_SUFFIXES


def check_file(path: Path) -> None:
    """EngineError unless there is such a file."""
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


def _choose(path: Path, engine: str) -> Backend:
    """The engine for a file: the one asked for if it takes such files, else the first that is installed."""
    check_file(path)
    kind = path.suffix.lower() if is_plan(path) else ".onnx"
    able = {name: b for name, b in ENGINES.items() if kind in b.suffixes}
    if not able:
        raise EngineError(
            f"{path} is a TensorRT plan: it needs an NVIDIA GPU and the TensorRT that built it.",
            hint="On a CPU run the .onnx file it was built from.",
        )
    if engine != "auto":
        if engine not in able:
            raise EngineError(
                f"The engine {engine!r} does not take {kind} files.", hint=f"Use {' or '.join(able)}."
            )
        return able[engine]
    found = next((b for b in able.values() if b.installed), None)
    if found is not None:
        return found
    missing = MissingDependency("OpenVINO or ONNX Runtime", extra="cpu", purpose="Running a network")
    missing.hint = (
        "Install one: pip install 'edgedet[cpu]' (OpenVINO, faster) or pip install 'edgedet[onnxruntime]'"
    )
    raise missing


def late(name: str, timeout: float) -> EngineTimeout:
    """What a request raises that is not done in time."""
    return EngineTimeout(
        f"{name} did not answer within {timeout:g} s.",
        hint="The device hangs or is far too slow for this model; allow it more with a longer timeout.",
    )


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


def inputs_of(spec: ModelSpec) -> dict[str, tuple[Shape, str]]:
    """All tensors that the graph takes, the image first: name -> (shape, dtype)."""
    extra = {t.name: (t.shape, t.dtype) for t in spec.extra_inputs}
    return {spec.input.name: (spec.input.shape, spec.input.dtype), **extra}


def checked_inputs(spec: ModelSpec, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """The input arrays, contiguous, and their batch size; EngineError names what is not as the spec says."""
    expected = inputs_of(spec)
    if set(inputs) != set(expected):
        raise EngineError(f"Got the input tensors {sorted(inputs)}, expected {sorted(expected)}.")
    batch = len(inputs[spec.input.name]) if np.ndim(inputs[spec.input.name]) else 0
    arrays = {}
    for name, (shape, dtype) in expected.items():
        array = inputs[name]
        if array.dtype != dtype or array.shape != concrete(shape, batch):
            want = ", ".join("N" if d is None else str(d) for d in shape)
            raise EngineError(
                f"Input {name!r} is {array.dtype} {array.shape}, expected {dtype} ({want}).",
            )
        arrays[name] = np.ascontiguousarray(array)
    return arrays, checked_batch(spec, batch)


def check_graph(
    spec: ModelSpec,
    inputs: Mapping[str, tuple[Shape, str]],
    outputs: Mapping[str, tuple[Shape, str]],
    path: Path,
) -> None:
    """That the graph has the tensors its spec describes, and takes no others; SpecError otherwise.

    Given and expected are (shape, numpy dtype) by name; in shapes None stands for a free axis, which fits
    any number.
    """
    described = inputs_of(spec)
    for kind, want, have in (
        ("input", described, inputs),
        ("output", {o.name: (o.shape, o.dtype) for o in spec.outputs}, outputs),
    ):
        for name, (shape, dtype) in want.items():
            got = have.get(name)
            if got is None or not _fits(shape, got[0]) or dtype != got[1]:
                found = f"has {name!r} {got[1]} {got[0]}" if got is not None else f"has {sorted(have)}"
                raise SpecError(
                    f"The spec of {path} describes the {kind} {name!r} {dtype} {shape}, the graph {found}.",
                    hint="The spec belongs to another graph: export the model again.",
                )
    unknown = sorted(set(inputs) - set(described))
    if unknown:
        raise SpecError(
            f"The graph {path} takes {unknown[0]!r}, which its spec does not describe.",
            hint="The spec belongs to another graph: export the model again.",
        )


def _fits(described: Shape, got: Shape) -> bool:
    return len(described) == len(got) and all(
        d is None or g is None or d == g for d, g in zip(described, got, strict=True)
    )
