"""The accuracy of a comparison's files, each measured once: what was found is kept in the output folder.

An hour of R-CNN on 700 images need not be spent again because another detector got its weights. What is
kept is found by the content of the files, of the labels and by what ran them; speed is measured anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedet.bench.artifacts import Artifact
from edgedet.contract.files import write_atomic
from edgedet.contract.proposals import cached
from edgedet.contract.text import parse_json
from edgedet.data import Dataset
from edgedet.evaluation import engine_under_test, evaluate
from edgedet.evaluation.metrics import Metrics
from edgedet.export.options import tools
from edgedet.runtime import open_engine
from edgedet.runtime.hardware import cpu_name

PROPOSALS = "proposals"
"""The folder in a comparison's where proposals are kept: one image's are the same for all that take them."""


@dataclass(frozen=True)
class Score:
    """Accuracy on one data set, in [0, 1]; None where it was not measured, for the reason `not_measured`.

    ap11: VOC's 11-point AP at IoU 0.5; box_ap50, mask_ap50: COCO's at IoU 0.5, measured where there are
    masks; classes: those with objects that the model knows, of `of` that the data has.
    """

    images: int
    ap11: float | None
    box_ap50: float | None
    mask_ap50: float | None
    classes: tuple[str, ...]
    of: int
    not_measured: str = ""
    notes: tuple[str, ...] = ()


class Scores:
    """Measures accuracy, or remembers it.

    Args:
        folder: where what was found is kept (accuracy.json), and the proposals that models are given.
        threads, precision: as of `open_engine`. progress: show bars on stderr.
    """

    def __init__(self, folder: Path, *, threads: int | None, precision: str | None, progress: bool) -> None:
        self._folder = folder
        self._file = folder / "accuracy.json"
        self._threads, self._precision, self._progress = threads, precision, progress
        self._known = _read(self._file)

    def of(self, artifact: Artifact, dataset: Dataset) -> Score:
        """The accuracy of an artifact on a data set, by its engine.

        Raises as `open_engine` and `evaluate`.
        """
        key = self._key(artifact, dataset)
        known = _score(self._known.get(key))
        if known is not None:
            return known
        with open_engine(
            artifact.file, engine=artifact.library, threads=self._threads, precision=self._precision
        ) as engine:
            proposer = cached(artifact.spec.proposals, self._folder / PROPOSALS)
            predict = engine_under_test(engine, proposer=proposer)
            masks = artifact.spec.task == "instance" and any(t.masks is not None for t in dataset.truths)
            found = evaluate(predict, dataset, coco=masks, progress=self._progress)
        score = _of(found, dataset)
        self._known[key] = {"file": artifact.file.name, "data": dataset.name, **asdict(score)}
        write_atomic(self._file, json.dumps(self._known, indent=1) + "\n")
        return score

    def _key(self, artifact: Artifact, dataset: Dataset) -> str:
        """What a figure depends on: the files, the labels, the engine, the processor."""
        of = [hashlib.sha256(f.read_bytes()).hexdigest() for f in artifact.files]
        versions = {name: tools().get(name) for name in ("edgedet", artifact.library)}
        how = [artifact.library, self._precision, versions, cpu_name()]
        return hashlib.sha256(json.dumps([of, dataset.fingerprint(), how]).encode()).hexdigest()


def _of(found: Metrics, dataset: Dataset) -> Score:
    present = {dataset.classes[k] for t in dataset.truths for k in t.labels.tolist()}
    return Score(
        images=found.images,
        ap11=found.ap11,
        box_ap50=found.coco_ap50,
        mask_ap50=found.mask_ap50,
        classes=tuple(c.name for c in found.classes if c.name in present),
        of=len(present),
        not_measured=found.not_measured,
        notes=found.notes,
    )


def _read(file: Path) -> dict[str, Any]:
    """What is kept; nothing where the file is absent or damaged: it is measured again."""
    try:
        found = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _score(raw: Any) -> Score | None:
    try:
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k not in ("file", "data")
        }
        score = Score(**plain)
        float(score.ap11 or 0), int(score.images)  # a file that somebody edited
        return score
    except (AttributeError, TypeError, ValueError):
        return None
