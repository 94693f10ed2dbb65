"""From a torch model to ONNX: the core (image -> heads) and, from the same core, the decoded graph.

The core is exported and simplified once; beside the image it takes proposals, where the model does. What ends
at the heads (detectors in TensorRT) is the core as it is; what ends at boxes and scores (CPU engines) or at a
class map (everywhere) is the core with the model's `decode` joined to its heads. So both forms hold the same
nodes under the same names, one calibration serves both, and decode cannot get between Q and DQ: it is joined
after quantisation. So is, at the other end, what makes the image of pixels for CPU engines (`passes.pixels`).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgedet.contract.errors import ExportError
from edgedet.contract.spec import SPEC_KEY, Decode, ModelSpec, Output
from edgedet.export.passes.canonical import canonical
from edgedet.export.passes.static_resize import static_resize
from edgedet.models.backbones import fuse
from edgedet.models.base import Model
from edgedet.runtime.engines.onnx_metadata import DIGEST_KEY

OPSET = 20
"""The newest that TensorRT 10.3 (JetPack 6) reads whole."""

BATCH = "batch"
"""The name of the free dimension. A free batch was measured to cost nothing on either CPU engine."""


@dataclass(frozen=True)
class Graphs:
    """One model as graphs. `core` ends at the heads (`spec`), `decode` turns heads into results."""

    spec: ModelSpec
    core: onnx.ModelProto
    decode: onnx.ModelProto
    stages: Mapping[str, onnx.ModelProto] = field(default_factory=dict)
    """What runs after NMS, by the names of the spec's stages."""

    def decoded(self, core: onnx.ModelProto | None = None) -> onnx.ModelProto:
        """The core, or a quantised or retyped version of it, joined with decode."""
        base = self.core if core is None else core
        read = {i.name for i in self.decode.graph.input}  # features pass by it, to a stage
        heads = [(o.name, o.name) for o in self.spec.outputs if o.name in read]
        joined = onnx.compose.merge_models(base, self.decode, io_map=heads)
        joined.producer_name = base.producer_name
        joined.graph.name = base.graph.name
        return joined

    @property
    def decoded_spec(self) -> ModelSpec:
        """The spec of `decoded()`: boxes (N, A, 4) and scores (N, A, K), or a class map (N, H, W)."""
        shapes = {o.name: (None, *_dims(o)[1:]) for o in self.decode.graph.output}
        if "class_map" in shapes:
            outputs = (Output("class_map", "class_map", shapes["class_map"], "uint8"),)
            return self.spec.with_(outputs=outputs, decode=Decode("class_map"))
        dense = Output("boxes", "boxes", shapes["boxes"]), Output("scores", "scores", shapes["scores"])
        features = tuple(o for o in self.spec.outputs if o.role == "features")
        return self.spec.with_(outputs=(*dense, *features), decode=Decode("dense"))


def export_graphs(model: Model, spec: ModelSpec) -> Graphs:
    """Export a model at the size of its spec; deterministic to the byte.

    Args:
        model: in any mode; not modified.
        spec: of the model as a network that ends at its heads.

    Raises:
        ExportError: torch or onnxsim cannot make a static graph of it.
    """
    model = copy.deepcopy(model).eval().float()
    fuse(model)
    names = [o.name for o in spec.outputs]
    shapes = spec.input_shapes
    example = tuple(torch.zeros(2, *(n or 1 for n in shape[1:])) for shape in shapes.values())
    with torch.no_grad():
        heads = model(*example)
        results = [*model.decode(heads, spec.input.size)]
    if list(heads) != names:
        raise ExportError(
            f"{spec.model}'s forward returns {', '.join(heads)}; its spec names {', '.join(names)}.",
            hint="Make the model's outputs() list its heads in the order of forward's dictionary.",
        )
    core = _export(_Heads(model), example, [*shapes], names)
    read = [o.name for o in spec.outputs if o.role != "features"]
    given = tuple(heads[name] for name in read)
    decode = _export(_Decode(model, read, spec.input.size), given, read, results)
    decode = onnx.compose.add_prefix(decode, "decode/", rename_inputs=False, rename_outputs=False)
    spec = spec.with_(
        input=replace(spec.input, batch=None),
        outputs=tuple(replace(o, shape=(None, *_shape(core, o.name)[1:])) for o in spec.outputs),
    )
    stages = {}
    for stage in spec.stages:
        inputs, made = [t.name for t in stage.inputs], [t.name for t in stage.outputs]
        zeros = tuple(torch.zeros(2, *(n or 1 for n in t.shape[1:])) for t in stage.inputs)
        stages[stage.name] = _export(_Stage(model, stage.name, inputs), zeros, inputs, made)
    return Graphs(spec, core, decode, stages)


def with_spec(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A copy of the graph that carries in `metadata_props` its spec, and a digest by which damage is seen."""
    out = with_digest(graph)
    digest = out.metadata_props.pop().value
    out.metadata_props.add(key=SPEC_KEY, value=spec.to_json())
    out.metadata_props.add(key=DIGEST_KEY, value=digest)
    return out


def with_digest(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that carries the digest alone: a stage, which the first graph's spec describes."""
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    del out.metadata_props[:]
    digest = hashlib.sha256(out.graph.SerializeToString(deterministic=True)).hexdigest()
    out.metadata_props.add(key=DIGEST_KEY, value=digest)
    return out


def to_bytes(graph: onnx.ModelProto) -> bytes:
    """The file's bytes, the same on every run."""
    return bytes(graph.SerializeToString(deterministic=True))


class _Heads(nn.Module):
    """Images, and proposals -> the heads as a tuple, which is what the exporter can name."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(*inputs).values())


class _Stage(nn.Module):
    """A stage's inputs -> its outputs as a tuple."""

    def __init__(self, model: Model, name: str, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.inputs = list(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        return tuple(self.model.run_stage(self.name, given).values())


class _Decode(nn.Module):
    """heads -> what `Model.decode` makes of them, as a tuple.

    Holds no parameters: the model is kept out of the module's children.
    """

    def __init__(self, model: Model, names: Sequence[str], size: tuple[int, int]) -> None:
        super().__init__()
        self.run: Callable[..., dict[str, Tensor]] = model.decode
        self.names = list(names)
        self.size = size

    def forward(self, *heads: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(dict(zip(self.names, heads, strict=True)), self.size).values())


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], input_names: Sequence[str], output_names: Sequence[str]
) -> onnx.ModelProto:
    import onnxsim

    free = {0: torch.export.Dim(BATCH)}
    shapes: Any = tuple(free for _ in inputs)
    if isinstance(module, (_Heads, _Decode, _Stage)):  # *inputs is one argument to the exporter
        shapes = (shapes,)
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=shapes,
                verbose=False,
            )
            assert program is not None
            graph, equal = onnxsim.simplify(program.model_proto)
    except Exception as e:
        reason = " ".join(str(e).split())[:300]
        raise ExportError(
            f"torch cannot export this model to ONNX: {reason}.",
            hint="forward and decode must be traceable with static shapes; --debug shows the traceback.",
        ) from e
    if not equal:
        raise ExportError("onnxsim changed what the graph computes.", hint="Update onnxsim.")
    clean = canonical(static_resize(graph))
    onnx.checker.check_model(clean, full_check=True)
    return clean


def _shape(graph: onnx.ModelProto, name: str) -> tuple[int | None, ...]:
    return next(_dims(o) for o in graph.graph.output if o.name == name)


def _dims(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks to stdout and warns about its own insides."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
