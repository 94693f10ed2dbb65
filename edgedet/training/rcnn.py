"""What follows R-CNN's fine-tuning: features, SVMs, regression (Girshick et al. 2014, 2.3, appendix C).

    features   of the proposed regions and of the objects of every training image, by the fine-tuned network,
               once, on disk
    svm        one linear SVM a class over all of them, by hard negative mining
    boxes      one linear regression a class, on pairs of a region and its object

Each image's features and each class's result is a file, in a folder that is named by the weights they come
of. So a run that was killed goes on behind the last one, and the result is the same.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgedet.contract.boxes import encode_deltas
from edgedet.contract.errors import EmptyDataset, ImageError, WeightsError
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.proposals import RegionInput
from edgedet.contract.targets import Targets
from edgedet.models.matching import BACKGROUND
from edgedet.models.rcnn import Rcnn
from edgedet.training.checkpoint import read, write_tensors
from edgedet.training.region_store import RegionStore
from edgedet.training.ridge import Ridge
from edgedet.training.svm import NORM, Miner, Mining

if TYPE_CHECKING:
    from edgedet.training.loop import Trainer

MEASURED = 200
"""Images whose features say how large features are."""


class RcnnStages:
    """The stages after the epochs: see `training.after.After` and the module's docstring."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.data = trainer, trainer.train
        self.mining = Mining()

    @property
    def model(self) -> Rcnn:
        """The averaged weights as they are now: a run that goes on makes them anew."""
        average = self.trainer.average
        assert isinstance(average, Rcnn)
        return average

    def describe(self) -> list[tuple[str, str]]:
        """See After."""
        m = self.model
        size = f"{self._all_bytes() / 2**30:.2f} GiB"
        svms = f"positive from IoU {m.svm_positive:g}, negative below {m.svm_negative:g}"
        return [
            ("then", f"features of {m.count} regions an image, {size} on disk until the run is finished"),
            ("", f"{m.classes} SVMs, {svms}"),
            ("", f"{m.classes} regressions of boxes, from IoU {m.box_overlap:g}"),
        ]

    def file_bytes(self) -> int:
        """See After."""
        there = sum(p.stat().st_size for p in self._store().folder.parent.rglob("*") if p.is_file())
        return max(0, self._all_bytes() - there)

    def _all_bytes(self) -> int:
        store = RegionStore(Path(), self.model.dimensions)
        return sum(store.bytes_of(self.model.count + len(t.boxes)) for t in self.data.truths)

    def shared(self, rank: int, world: int) -> Iterator[dict[str, Any]]:
        """The features: see After. Those of other weights, of an earlier edgedet, are removed."""
        store = self._store()
        stages = self.trainer.folder.stages
        if rank == 0 and stages.is_dir():
            for folder in set(stages.iterdir()) - {store.folder.parent}:
                shutil.rmtree(folder, ignore_errors=True)
        return self._features(store, range(rank, len(self.data), world))

    def run(self) -> Iterator[dict[str, Any]]:
        """SVMs and regression: see After. Raises EmptyDataset: no image can be read."""
        store = self._store()
        folder, regions = store.folder.parent, Regions(self, store)
        for k in range(self.model.classes):
            path = folder / f"svm-{k:03d}.safetensors"
            if not self._known(path, 1):
                yield from regions.svm(k, path)
            self._set(self.model.svm, k, 1, path)
        for k in range(self.model.classes):
            path = folder / f"boxes-{k:03d}.safetensors"
            if not self._known(path, 4):
                regions.regression(k, path)
            self._set(self.model.deltas, k, 4, path)
            yield event("boxes", k + 1, self.model.classes)

    def clean(self) -> None:
        """See After."""
        shutil.rmtree(self.trainer.folder.stages, ignore_errors=True)

    def _store(self) -> RegionStore:
        folder = self.trainer.folder.stages / digest(self.model)
        return RegionStore(folder / "features", self.model.dimensions)

    @torch.inference_mode()
    def _features(self, store: RegionStore, indices: range) -> Iterator[dict[str, Any]]:
        """Of these images. Those that cannot be read are left out, and noted."""
        spec, model, total = self.trainer.spec, self.model, len(self.data)
        prepare, propose = Preprocessor(spec.input), RegionInput(spec, self.trainer.proposer)
        pixels = np.zeros((1, 3, *spec.input.size), np.float32)
        proposed = np.zeros((model.count, 4), np.float32)
        device = self.trainer.processes.device
        for i in indices:
            if i in store:
                continue
            truth = self.data.truths[i]
            known = len(self.data.problems)
            try:
                image = self.data.image(i)
                transform = prepare(image, pixels[0])
                count = propose(image, transform, proposed)
            except ImageError:  # noted by the data set
                yield event("features", i + 1, total, self.data.problems.items[known:])
                continue
            objects = transform.to_network(truth.boxes)
            boxes = torch.from_numpy(np.concatenate([proposed[:count], objects[~truth.ignore]]))
            images = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)
            found = [
                model.features(images, some[None].to(device), operators=True).flatten(1).cpu()
                for some in torch.split(boxes, model.rows)
                if len(some)
            ]
            features = torch.cat(found) if found else torch.zeros(0, model.dimensions)
            store.write(i, features, boxes, torch.from_numpy(objects))
            yield event("features", i + 1, total)

    def _known(self, path: Path, outputs: int) -> bool:
        """Whether a class's result is there, whole."""
        try:
            tensors, _ = read(path)
        except WeightsError:
            return False
        shapes = {k: tuple(t.shape) for k, t in tensors.items()}
        return shapes == {"weight": (outputs, self.model.dimensions), "bias": (outputs,)}

    @torch.no_grad()
    def _set(self, layer: torch.nn.Conv2d, k: int, outputs: int, path: Path) -> None:
        """Put a class's result into a layer of the network."""
        tensors, _ = read(path)
        rows = slice(outputs * k, outputs * (k + 1))
        assert layer.bias is not None
        layer.weight[rows] = tensors["weight"].reshape(outputs, *layer.weight.shape[1:]).to(layer.weight)
        layer.bias[rows] = tensors["bias"].to(layer.bias)


class Regions:
    """All regions of all images that have features, and what is learned from them.

    Raises:
        EmptyDataset: there are none.
    """

    def __init__(self, stages: RcnnStages, store: RegionStore) -> None:
        self.model, self.mining, self.store = stages.model, stages.mining, store
        truths = stages.data.truths
        self.images = [i for i in range(len(truths)) if i in store]
        """Their indices."""
        self._boxes: list[Tensor] = []
        self._truths: list[Targets] = []
        self._proposed: list[int] = []
        for i in self.images:
            boxes, objects = store.boxes(i)
            labels, ignore = torch.from_numpy(truths[i].labels), torch.from_numpy(truths[i].ignore)
            self._boxes.append(boxes)
            self._truths.append(Targets(objects, labels, ignore))
            self._proposed.append(len(boxes) - int((~ignore).sum()))
        if not any(len(boxes) for boxes in self._boxes):
            raise EmptyDataset(f"{stages.data.name} has no region to learn from: no image can be read.")
        self.scale = self._scale()

    def _scale(self) -> float:
        """Features times this have the norm that the numbers of SVM and regression are made for."""
        some = self.images[:: -(-len(self.images) // MEASURED)]
        norms = torch.cat([self.store.features(i).norm(dim=1) for i in some])
        return NORM / max(float(norms.mean()), 1e-6) if len(norms) else 1.0

    def _scaled(self, place: int) -> npt.NDArray[np.float32]:
        """The features (n, D) of the image at a place of `images`."""
        return (self.store.features(self.images[place]) * self.scale).numpy()

    def svm(self, k: int, path: Path) -> Iterator[dict[str, Any]]:
        """Train the SVM of class k and keep it."""
        m, total = self.model, self.model.classes * len(self.images)
        labels = []
        for boxes, truth in zip(self._boxes, self._truths, strict=True):
            labels.append(m.of_class(boxes, truth, k, m.svm_positive, m.svm_negative)[1].numpy())
        miner = Miner(self._positives(labels), self.mining)
        for place, found in enumerate(labels):
            if (found == BACKGROUND).any():
                miner.see(self._scaled(place), found == BACKGROUND)
            yield event("svm", k * len(self.images) + place + 1, total)
        plane = miner.result()
        weight = torch.from_numpy(plane.weight)[None] * self.scale
        write_tensors(path, {"weight": weight, "bias": torch.tensor([plane.bias])}, {})

    def _positives(self, labels: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """(p, D): all of a class, or `Mining.most` of them, evenly spread."""
        total = sum(int((found >= 0).sum()) for found in labels)
        every = max(1, -(-total // self.mining.most))
        rows, seen = [np.zeros((0, self.model.dimensions), np.float32)], 0
        for place, found in enumerate(labels):
            mine = np.flatnonzero(found >= 0)
            chosen = mine[(seen + np.arange(len(mine))) % every == 0]
            seen += len(mine)
            if len(chosen):
                rows.append(self._scaled(place)[chosen])
        return np.concatenate(rows)

    def regression(self, k: int, path: Path) -> None:
        """Solve the regression of class k, from proposed regions to their objects, and keep it."""
        ridge, least = Ridge(self.model.dimensions), self.model.box_overlap
        for place, (boxes, truth) in enumerate(zip(self._boxes, self._truths, strict=True)):
            proposed = boxes[: self._proposed[place]]
            objects, found = self.model.of_class(proposed, truth, k, least, least)
            near = torch.nonzero(found >= 0).flatten()
            if len(near):
                wanted = encode_deltas(objects[found[near]], proposed[near])
                ridge.add(self._scaled(place)[near.numpy()], wanted.numpy())
        weight, bias = ridge.solve()
        scaled = torch.from_numpy(weight * self.scale).float()
        write_tensors(path, {"weight": scaled, "bias": torch.from_numpy(bias).float()}, {})


def event(stage: str, done: int, total: int, problems: Any = ()) -> dict[str, Any]:
    """What `After.run` yields."""
    return {"stage": stage, "done": done, "total": total, "problems": list(problems)}


def digest(model: Rcnn) -> str:
    """Of the weights that features depend on: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith(("svm.", "deltas.", "class_logits.")):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
