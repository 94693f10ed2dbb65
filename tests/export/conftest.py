"""One real YOLO, small in pixels, that finds things: exported once for all tests here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgedet.contract.spec import ModelSpec, Provenance
from edgedet.export.graph import Graphs, export_graphs
from edgedet.models import build, make_spec
from edgedet.models.base import Model
from edgedet.training.checkpoint import load_model, save_model

CLASSES = ("cat", "dog", "bird")
SIZE = (64, 96)


@dataclass(frozen=True)
class Exported:
    """A checkpoint, what it holds, and the graphs made of it."""

    path: Path
    model: Model
    spec: ModelSpec
    graphs: Graphs


def _pictures() -> list[np.ndarray]:
    """Smooth noise, in colour."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (8, 12, 3), np.uint8) for _ in range(10)]
    return [np.asarray(cv2.resize(i, (144, 96), interpolation=cv2.INTER_CUBIC)) for i in small]


def _inputs() -> np.ndarray:
    pixels = np.stack([cv2.resize(i, SIZE[::-1]) for i in _pictures()])
    return np.ascontiguousarray((pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with statistics in the norms and a last layer that makes confident boxes."""
    torch.manual_seed(0)
    model = build("yolo", len(CLASSES), pretrained=False, width=32)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.uniform_(0.0, 0.5)
    last = model.head[-1]
    torch.nn.init.normal_(last.weight)
    torch.nn.init.zeros_(last.bias)
    model.eval()
    with torch.no_grad():
        for _ in range(3):  # logits of about -3 to 3, different from image to image and cell to cell
            heads = model(torch.from_numpy(_inputs()))["grid"]
            last.bias -= heads.mean((0, 2, 3))
            last.weight *= 3 / (heads - heads.mean((0, 2, 3), keepdim=True)).std()
        for row, middle in ((0, 0.5), (1, 0.5), (2, 0.3), (3, 0.3)):  # x, y, sqrt w, sqrt h: not logits
            for b in range(model.boxes_per_cell):
                last.weight[5 * b + row] /= 30
                last.bias[5 * b + row] = last.bias[5 * b + row] / 30 + middle
    spec = make_spec("yolo", model, CLASSES, size=SIZE)
    spec = spec.with_(provenance=Provenance(data="noise"), metrics={"AP50_11point@noise": 0.5})
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, model.state_dict(), spec, {"width": 32})
    return path


@pytest.fixture(scope="session", autouse=True)
def graphs_of() -> Iterator[Callable[[Model, ModelSpec], Graphs]]:
    """`export_graphs`, which brings a checkpoint that several tests export from torch to ONNX once.

    The same checkpoint gives the same bytes each time (test_graph.py); a spec holds its digest. The verb
    gets a copy, to do with as it likes.
    """
    known: dict[str, Graphs] = {}

    def once(model: Model, spec: ModelSpec) -> Graphs:
        if spec.provenance.weights_sha256 is None:
            return export_graphs(model, spec)
        key = spec.with_(provenance=replace(spec.provenance, tools={})).to_json()
        if key not in known:
            known[key] = export_graphs(model, spec)
        graphs = copy.deepcopy(known[key])
        return replace(graphs, spec=graphs.spec.with_(provenance=spec.provenance))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgedet.export.job.export_graphs", once)
        yield once


@pytest.fixture(scope="session")
def exported(checkpoint: Path, graphs_of: Callable[[Model, ModelSpec], Graphs]) -> Exported:
    model, spec = load_model(checkpoint)
    return Exported(checkpoint, model, spec, graphs_of(model, spec))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 10 images."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(_pictures()):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder
