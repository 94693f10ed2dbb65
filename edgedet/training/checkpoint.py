"""Checkpoints: safetensors with JSON in their metadata. Loading one never runs code from it.

A model file holds the weights of one model and, in the metadata, its spec (`edgedet.contract.spec`) and the
options its class was built with; what it has in common with another model's file may be left to that one. A
state file holds all that a run needs to go on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgedet.contract.errors import EdgedetError, SpecError, WeightsError
from edgedet.contract.files import write_atomic
from edgedet.contract.spec import SPEC_KEY, ModelSpec
from edgedet.contract.tensor_file import BASE_KEY, Base, base_of, read_tensor_file
from edgedet.contract.text import parse_json
from edgedet.models import build
from edgedet.models.base import Model

OPTIONS_KEY = "edgedet.model_options"


def save_model(
    path: Path,
    state: Mapping[str, Tensor],
    spec: ModelSpec,
    options: Mapping[str, Any],
    *,
    half: bool = False,
    base: Path | None = None,
) -> None:
    """Write weights with their spec.

    Args:
        half: store floating point tensors as float16.
        base: another model's file. Tensors that are in it, of the same name and bytes, are left out: they
            are read from there. The two files belong together, at these places relative to each other.
    """
    tensors = {
        k: v.detach().cpu().to(torch.float16 if half and v.is_floating_point() else v.dtype).contiguous()
        for k, v in state.items()
    }
    metadata = {SPEC_KEY: spec.to_json(), OPTIONS_KEY: json.dumps(dict(options), sort_keys=True)}
    if base is not None:
        shared = in_common(tensors, base)
        place = Path(os.path.relpath(base, path.parent)).as_posix()
        metadata[BASE_KEY] = Base(place, _sha256(base), tuple(sorted(shared))).to_json()
        tensors = {k: v for k, v in tensors.items() if k not in shared}
    write_tensors(path, tensors, metadata)


def in_common(tensors: Mapping[str, Tensor], path: Path) -> set[str]:
    """The names of those that a file holds too, bit for bit; not what it leaves to others itself."""
    theirs, _ = _read(path)
    return {k for k in tensors.keys() & theirs.keys() if _same(tensors[k], theirs[k])}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all, with the mode that the user's umask says.

    Raises:
        OutputError: it cannot be written (safetensors' own writer has no error for a full disk, and makes
            files that nobody else may read).
    """
    write_atomic(path, save(dict(tensors), metadata=dict(metadata)))


def load_model(path: Path) -> tuple[Model, ModelSpec]:
    """The model (in eval mode, float32) and its spec, whose provenance holds the file's sha256.

    Raises:
        WeightsError: no such file, truncated, or tensors that do not fit the model it names.
        SpecError: a safetensors file that edgedet did not write.
    """
    tensors, metadata = read(path)
    if SPEC_KEY not in metadata:
        raise SpecError(
            f"{path} carries no edgedet spec.", hint="Use a file that edgedet-train wrote (best.safetensors)."
        )
    spec = ModelSpec.from_json(metadata[SPEC_KEY])
    model = _build(path, spec, metadata.get(OPTIONS_KEY, "{}"))
    load_state(model, tensors, path)
    return model.eval(), spec.with_(provenance=replace(spec.provenance, weights_sha256=_sha256(path)))


def _build(path: Path, spec: ModelSpec, text: str) -> Model:
    """The model a file names, with the options that stand in it; WeightsError if there is no such model."""
    hint = "The file is damaged, or of another edgedet: copy or train it again."
    try:
        options = parse_json(text)
        if not isinstance(options, dict):
            raise ValueError("they are no JSON object")
        return build(spec.model, len(spec.classes), pretrained=False, **options)
    except EdgedetError as e:
        raise WeightsError(f"{path} names a model that cannot be built: {e.message}", hint=hint) from e
    except Exception as e:  # whatever a class makes of values it was never meant to get
        raise WeightsError(
            f"{path} holds options of {spec.model!r} that cannot be meant: {e}.", hint=hint
        ) from e


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model, float16 becoming float32; WeightsError names the first that does not fit."""
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    for what, names in (("lacks", missing), ("has unknown", extra), ("has other shapes for", sorted(wrong))):
        if names:
            raise WeightsError(
                f"{path} does not fit {type(model).__name__}: "
                f"it {what} {len(names)} tensors, first {names[0]!r}.",
                hint="Use weights of this model, or train again.",
            )
    model.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})


def start_from(model: nn.Module, path: Path) -> list[str]:
    """Copy into a model the layers that a file has for it; the names of those that stay as they were.

    A layer is copied whole or not at all: its tensors must agree in name and shape. Another number of
    classes leaves only the last layer fresh.

    Raises:
        WeightsError: no such file, truncated, or no layer in it fits.
    """
    tensors, _ = read(path)
    expected = model.state_dict()
    ours, theirs = layers(expected), layers(tensors)
    fitting = [name for name in ours if ours[name] == theirs.get(name)]
    if not fitting:
        raise WeightsError(
            f"No layer of {path} fits {type(model).__name__}.",
            hint="Start from weights of the same model, or leave --weights out.",
        )
    copied = [k for name in fitting for k in ours[name]]
    model.load_state_dict({k: tensors[k].to(expected[k].dtype) for k in copied}, strict=False)
    return sorted(ours.keys() - fitting)


def layers(state: Mapping[str, Tensor]) -> dict[str, dict[str, torch.Size]]:
    """{layer: {tensor: shape}}; a parametrized weight belongs to the layer that it is computed for."""
    found: dict[str, dict[str, torch.Size]] = {}
    for name, tensor in state.items():
        layer = (
            name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        )
        found.setdefault(layer, {})[name] = tensor.shape
    return found


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, with the tensors that it leaves to another.

    Raises:
        WeightsError: absent or not whole; or the other file is, or it is not the one that tensors were left
            to.
    """
    tensors, metadata = _read(path)
    base = base_of(path, metadata)
    return tensors if base is None else _of(base, path) | tensors, metadata


def _of(base: Base, path: Path) -> dict[str, Tensor]:
    """The tensors that `path` leaves to another file."""
    file = path.parent / base.file
    hint = "The two files belong together, each at its place: copy both."
    try:
        tensors, _ = _read(file)
    except WeightsError as e:
        raise WeightsError(f"{path} leaves tensors to another file. {e.message}", hint=hint) from None
    if _sha256(file) != base.sha256 or not tensors.keys() >= set(base.tensors):
        raise WeightsError(f"{file} is not the file that {path} leaves tensors to (sha256).", hint=hint)
    return {name: tensors[name] for name in base.tensors}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    header = read_tensor_file(path)
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, header.metadata  # noqa: SIM118
    except Exception as e:  # the library's own, torch's for a dtype it lacks, MemoryError
        raise WeightsError(
            f"{path} is not a whole safetensors file: {e}.", hint="Copy or train it again."
        ) from None
