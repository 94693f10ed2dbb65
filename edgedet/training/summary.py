"""What a run is about to do, and with what: said before its first step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from edgedet.data import Dataset
from edgedet.data.clean import CORRECTED
from edgedet.evaluation.evaluate import spread
from edgedet.training.checkpoint import layers
from edgedet.training.loop import Trainer, objects
from edgedet.training.phases import InPhases, result


def before(trainer: Trainer, weights: Path | None, fresh: list[str]) -> list[tuple[str, str]]:
    """(what, how it is): model, data and what was left out of it, weights, steps, device.

    Args:
        trainer: ready to run. weights: the file it starts from; fresh: the layers it had nothing for.
    """
    spec, recipe, processes = trainer.spec, trainer.recipe, trainer.processes
    size = f"{spec.input.size[0]}x{spec.input.size[1]}"
    rows = [("model", f"{spec.model}, {len(spec.classes)} classes, input {size}")]
    rows += about("data", trainer.train)
    if trainer.val is None:
        rows.append(("validation", "none: the last epoch's weights are kept"))
    else:
        rows += about("validation", trainer.val.part(spread(len(trainer.val), trainer.eval_limit)))
        if not trainer.val.semantic and objects(trainer.val) == 0:
            rows.append(("", "nothing to measure there: the last epoch's weights are kept"))
    if weights is not None:
        there = len(layers(result(trainer.model).state_dict()))
        rows.append(("weights", f"{weights}: {there - len(fresh)} of {there} layers fit"))
        if fresh:
            rows.append(("", f"not in it, or of another shape: {shortened(fresh)}"))
    shared = f", {processes.world} processes" if processes.world > 1 else ""
    rows.append(("steps", f"{recipe.epochs} epochs x {len(trainer.order)} steps of {recipe.batch} images"))
    if isinstance(trainer.model, InPhases):
        for planned, phase in zip(trainer.model.plan, trainer.phases, strict=True):
            span = f"{phase.end - phase.first} epochs from {phase.first} on"
            rows.append((f"step {phase.name}", f"{span}: {planned.trains}"))
    if trainer.after is not None:
        rows += trainer.after.describe()
    if processes.device.type == "cuda":
        device = f"cuda, {torch.cuda.get_device_name(processes.device)}"
    else:
        device = f"cpu, {torch.get_num_threads()} threads"
    rows.append(("device", f"{device}{shared}"))
    return rows


def about(role: str, data: Dataset) -> list[tuple[str, str]]:
    """The rows of one data set: images, objects by class, classes without any, what was left out."""
    if data.semantic:
        rows = [(role, f"{data.name}: {len(data)} images with a class per pixel")]
    else:
        count = Counter(int(k) for t in data.truths for k in t.labels[~t.ignore])
        by_class = [f"{data.classes[k]} {n}" for k, n in count.most_common()]
        without = [name for k, name in enumerate(data.classes) if k not in count]
        empty = sum(1 for t in data.truths if not len(t.boxes))
        rows = [(role, f"{data.name}: {len(data)} images ({empty} without objects), {count.total()} objects")]
        if by_class:
            rows.append(("", shortened(by_class, 20)))
        if without and count:
            rows.append(("", f"no object of {len(without)} classes: {shortened(without)}"))
    if left := data.left_out():
        rows.append(("", left))
    corrected = Counter(p.kind for p in data.problems.items if p.kind in CORRECTED)
    if corrected:
        rows.append(("", ", ".join(f"{n} {kind}" for kind, n in corrected.most_common())))
    said = data.mostly_lost() if left else ()
    return rows + [("note", note) for note in data.notes if note not in said]


def shortened(names: list[str], most: int = 5) -> str:
    """The first few, and how many there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)})"
