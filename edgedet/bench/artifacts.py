"""What a comparison measures: each detector's FP32 and INT8 file, left by an earlier export or made now."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet.contract.errors import EdgedetError, SpecError, UsageError, WeightsError
from edgedet.contract.spec import SPEC_KEY, ModelSpec
from edgedet.contract.tensor_file import read_tensor_file
from edgedet.contract.text import parse_json
from edgedet.data import Dataset
from edgedet.export.accuracy import fewer
from edgedet.export.console import LabelledConsole
from edgedet.models import MODELS, entry
from edgedet.runtime import read_spec
from edgedet.weights import find, shipped

FAMILY = ("rcnn", "fast-rcnn", "faster-rcnn")
"""R-CNN and what became of it, in the lecture's order."""


@dataclass(frozen=True)
class Missing:
    """What is not in a comparison, and why; failed: it was tried."""

    what: str
    why: str
    failed: bool = False


@dataclass(frozen=True)
class Weights:
    """A checkpoint of a detector."""

    path: Path
    spec: ModelSpec
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A file that edgedet-export wrote for an engine, with its spec."""

    file: Path
    library: str
    spec: ModelSpec

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and those of its stages beside it: one artifact."""
        return (self.file, *(self.file.with_name(s.file) for s in self.spec.stages))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.stat().st_size for f in self.files)


def detectors() -> list[str]:
    """The systems that a comparison of detectors is about: R-CNN's family first.

    A localizer says one box an image, and is measured by another figure.
    """
    found = [name for name, e in MODELS.items() if e.task in ("detection", "instance")]
    return sorted(found, key=lambda name: FAMILY.index(name) if name in FAMILY else len(FAMILY))


def parse_weights(texts: Iterable[str]) -> dict[str, Path]:
    """Weights as typed: ["rcnn=runs/best.safetensors"] -> {"rcnn": Path("runs/best.safetensors")}.

    Raises:
        UsageError: no "=", a name twice, or of no detector. UnknownName: no such model.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            hint = "For example --weights faster-rcnn=runs/faster/best.safetensors."
            raise UsageError(f"--weights {text!r} is not NAME=FILE.", hint=hint)
        if name in found:
            raise UsageError(f"--weights {name}= is given twice.", hint="Give each detector's weights once.")
        entry(name)
        if name not in detectors():
            raise UsageError(
                f"--weights {name}=: {name} is no detector.", hint=f"Detectors: {', '.join(detectors())}."
            )
        found[name] = Path(file)
    return found


def find_weights(given: Mapping[str, Path]) -> tuple[dict[str, Weights], list[Missing]]:
    """The weights of every detector, those given before those shipped; and the detectors without any.

    Raises WeightsError, SpecError: those given cannot be read, or are another model's.
    """
    found, missing = {}, []
    for name in detectors():
        if name in given:
            found[name] = _read(name, given[name])
        elif name in shipped():
            found[name] = _read(name, find(name))
        else:
            missing.append(
                Missing(
                    name,
                    f"no weights are shipped: train some (edgedet-train --model {name} --data voc:PATH -o"
                    f" runs/{name}), then give --weights {name}=runs/{name}/best.safetensors",
                )
            )
    return found, missing


def _read(name: str, path: Path) -> Weights:
    metadata = read_tensor_file(path).metadata
    if SPEC_KEY not in metadata:
        raise SpecError(
            f"{path} carries no edgedet spec.", hint="Use a file that edgedet-train wrote (best.safetensors)."
        )
    spec = ModelSpec.from_json(metadata[SPEC_KEY])
    if spec.model != name:
        raise WeightsError(
            f"{path} holds weights of {spec.model!r}, not of {name!r}.",
            hint=f"Give --weights {spec.model}={path}.",
        )
    return Weights(path, spec, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class Exports:
    """Where a comparison's files are, and what they are made with.

    folder: as of edgedet-export's -o. data: KIND:PATH, that the gate measures on, and that is calibrated on
    where no calibration lies beside the weights; mask_data: the same for what gives masks, if any; limit:
    images of either, in the gate; opened: both as data sets; proposals: where they are kept.
    """

    folder: Path
    data: str
    mask_data: str | None
    limit: int | None
    opened: tuple[Dataset, ...]
    proposals: Path
    console: LabelledConsole

    def of(self, weights: Weights, library: str) -> tuple[list[Artifact], list[Missing]]:
        """FP32 and INT8 of a detector for an engine: left by an earlier export of these weights for this
        engine, or exported now; an INT8 that its gate refused is missing.

        Raises as edgedet-export.
        """
        left = self._left(weights, library)
        if left is not None:
            return left
        self.console.line("", f"{weights.spec.model} for {library}: exporting to {self.folder}")
        self._export(weights, library)
        made = self._left(weights, library)
        assert made is not None, "an export leaves what it says"
        return made

    def _export(self, weights: Weights, library: str) -> None:
        from edgedet.export.job import run  # loads torch
        from edgedet.export.options import ExportOptions

        masks = weights.spec.task == "instance"
        # what gives masks is judged by them; where there are none, by agreement with FP32 on the images
        judged = self.mask_data or f"folder:{self.opened[0].truths[0].path.parent}" if masks else self.data
        calibrated = (weights.path.parent / "calibration.json").is_file()
        run(
            ExportOptions(
                model=weights.spec.model,
                output=self.folder,
                weights=weights.path,
                precision="int8",
                target=library,
                calib_data=None if calibrated else (self.mask_data if masks else None) or self.data,
                eval_data=judged,
                eval_images=self.limit,
                proposals_cache=self.proposals,
            ),
            self.console,
        )

    def _left(self, weights: Weights, library: str) -> tuple[list[Artifact], list[Missing]] | None:
        """What an export left, if it was of these weights, for this engine, and its gate saw enough."""
        name = weights.spec.model
        try:
            report = parse_json((self.folder / f"{name}-int8.report.json").read_bytes())
            files = {"fp32": f"{name}.onnx", "int8": f"{name}-int8.onnx"}
            if report["target"] != library or files["fp32"] not in report["wrote"]:
                return None
            judged = report["facts"].get("accuracy", {}).get("data", "") + report["verdict"]["why"]
            for data in self.opened:
                trial = re.search(re.escape(data.name) + r", \d+ of \d+ images", judged)
                if trial and trial[0] != fewer(data, self.limit).name:
                    return None  # the gate saw fewer images, or other ones
            found = [
                Artifact(self.folder / file, library, read_spec(self.folder / file))
                for file in files.values()
                if file in report["wrote"]
            ]
            fits = all(
                (a.spec.provenance.weights_sha256, a.spec.input.size)
                == (weights.sha256, weights.spec.input.size)
                and all(f.is_file() for f in a.files)
                for a in found
            )
            refused = (
                []
                if len(found) == len(files)
                else [Missing(f"{name}, INT8", _refusal(report["verdict"]), True)]
            )
            return (found, refused) if fits else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EdgedetError):
            return None  # nothing, or no whole export


def _refusal(verdict: Mapping[str, Any]) -> str:
    """Why an INT8 file was not written, from an export's report."""
    if verdict["quantised"] is None:
        return f"its accuracy could not be measured by the export: {verdict['why']}"
    return (
        f"refused by the export's gate: {verdict['quantised']:.2f} {verdict['measure']}, at least"
        f" {verdict['allowed']:.2f} is allowed (FP32 has {verdict['reference']:.2f})"
    )
