"""The ONNX files and plans of one export: made in the staging folder, published at the end.

An artifact is a file, or several where graphs run after NMS (`ModelSpec.stages`): these lie beside the first
one, under its name with theirs. Its spec says how they are called and which bytes they hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import onnx

from edgedet.calib import Quantised, Scales
from edgedet.contract.errors import EdgedetError
from edgedet.contract.files import output_error
from edgedet.contract.spec import MAP_KINDS, ModelSpec, Stage
from edgedet.export.graph import Graphs, to_bytes, with_digest, with_spec
from edgedet.export.options import ExportOptions, Log
from edgedet.export.passes.half import to_half
from edgedet.export.passes.pixels import from_pixels
from edgedet.export.staging import Staging
from edgedet.export.targets import Target
from edgedet.runtime import Engine, open_engine, read_spec


class Artifacts:
    """FP32, and the precision asked for in the form its target takes."""

    def __init__(self, options: ExportOptions, target: Target, graphs: Graphs, staging: Staging) -> None:
        self.options, self.target, self.graphs, self.staging = options, target, graphs, staging
        self.heads = target.plan and graphs.spec.decode.kind not in MAP_KINDS
        """Whether the artifact ends at the heads. A plan takes no NMS and leaves decode to what runs after
        it; it takes an arg max."""
        self.stem = options.stem(target)
        self.plain_name = f"{options.model}.onnx"
        self.typed_name = f"{self.stem}.onnx"
        self.plan_name = f"{self.stem}.plan"
        self.wrote: list[str] = []
        self.graph, self.spec = graphs.core, graphs.spec
        """What a plan is built from, in the precision asked for, and its spec."""
        self.stages: Mapping[str, onnx.ModelProto] = graphs.stages
        """The graphs that run after NMS, in that precision."""
        self.refused = False
        self._parts: dict[str, tuple[str, ...]] = {}
        """Of each artifact in the staging folder, the files of its stages."""

    def plain(self) -> None:
        """FP32, pixels -> boxes and scores, or a class map."""
        graph, spec = from_pixels(self.graphs.decoded(), self.graphs.decoded_spec)
        self._save(self.plain_name, graph, spec, self.graphs.stages)

    def cache(self, scales: Scales) -> None:
        """The calibration cache, published at once: it is whole, and took the longest."""
        name = f"{self.options.model}.calibration.json"
        scales.save(self.staging.folder / name)
        self.wrote.append(self.staging.publish(name).name)

    def typed(self, quantised: Quantised, metrics: dict[str, float], calibration: str) -> None:
        """The precision asked for, in the form the target takes."""
        options = self.options
        half = options.precision == "fp16" or (self.target.plan and options.precision == "int8")
        core = to_half(quantised.graph) if half else quantised.graph
        self.stages = {n: to_half(q.graph) if half else q.graph for n, q in quantised.stages.items()}
        self.graph = core if self.heads else self.graphs.decoded(core)
        spec = self.graphs.spec if self.heads else self.graphs.decoded_spec
        provenance = replace(spec.provenance, calibration=calibration)
        self.spec = spec.with_(precision=options.precision, metrics=metrics, provenance=provenance)
        if not self.target.plan:
            self.graph, self.spec = from_pixels(self.graph, self.spec)
        self._save(self.typed_name, self.graph, self.spec, self.stages)

    def plan(self, first: bytes, stages: Mapping[str, bytes]) -> None:
        """The plan, and those of its stages, which its spec has to name as `part` does."""
        for stage in self.spec.stages:
            self.staging.write(part(self.plan_name, stage).file, stages[stage.name])
        self.staging.write(self.plan_name, first)
        self._parts[self.plan_name] = tuple(part(self.plan_name, s).file for s in self.spec.stages)

    def size(self, name: str) -> int:
        """Of an artifact in the staging folder, in bytes."""
        return sum((self.staging.folder / n).stat().st_size for n in (name, *self._parts[name]))

    def open(self, name: str, *, precision: str | None = None) -> Engine:
        """An artifact in the staging folder, on the target's engine."""
        return open_engine(self.staging.folder / name, engine=self.target.engine, precision=precision)

    def open_typed(self) -> Engine:
        """The precision asked for, in the arithmetic that the gate judges."""
        return self.open(self.typed_name, precision=self.target.judged_in)

    def open_exact(self) -> Engine:
        """The precision asked for, as its graph is written: the same on every CPU."""
        return open_engine(self.staging.folder / self.typed_name, engine="onnxruntime", precision="exact")

    def refuse(self) -> None:
        """The gate refused it: from now on its name says so. Only `keep_failed` publishes it."""
        self.refused = True
        self.typed_name, self.plan_name = f"{self.stem}-failed.onnx", f"{self.stem}-failed.plan"
        self._save(self.typed_name, self.graph, self.spec, self.stages)

    def publish(self, log: Log) -> None:
        """Give the files their names.

        What an earlier export left under the names of this precision is put aside first: at no moment, were
        it the last, does an INT8 lie beside the FP32 of other weights.
        """
        given: list[str] = []
        if not self.refused or self.options.keep_failed:
            names = (self.typed_name, self.plan_name)
            given = [n for n in names if n in self._parts and n != self.plain_name]
        aside = {}
        for name in (f"{self.stem}.onnx", f"{self.stem}.plan"):
            if name != self.plain_name and (self.staging.output / name).exists():
                aside[name] = self._put_aside(name)
        for name in (self.plain_name, *given):
            # the first graph last: what is there is whole
            self.wrote += [self.staging.publish(file).name for file in (*self._parts[name], name)]
        for name, stale in aside.items():
            if name in given:
                stale.unlink(missing_ok=True)
            else:
                why = "of an earlier export does not belong to these files"
                log.notes.append(f"{name} {why}: now {stale.name}")
        self._note_others(log)

    def _save(
        self, name: str, graph: onnx.ModelProto, spec: ModelSpec, stages: Mapping[str, onnx.ModelProto]
    ) -> None:
        """An ONNX file with its spec, and its stages beside it."""
        made = []
        for stage in spec.stages:
            data = to_bytes(with_digest(stages[stage.name]))
            made.append(part(name, stage, data))
            self.staging.write(made[-1].file, data)
        self.staging.write(name, to_bytes(with_spec(graph, spec.with_(stages=tuple(made)))))
        self._parts[name] = tuple(stage.file for stage in made)

    def _put_aside(self, name: str) -> Path:
        """Rename a published file, so that its name says that it does not belong to the others."""
        old = self.staging.output / name
        stale = old.with_name(f"{self.stem}-stale{old.suffix}")
        try:
            old.replace(stale)
        except OSError as e:
            raise output_error(stale, e) from e
        return stale

    def _note_others(self, log: Log) -> None:
        """Say which other files of this model, left by earlier exports, were not made of these weights."""
        made_of = self.graphs.spec.provenance.weights_sha256, self.graphs.spec.input.size
        for path in sorted(self.staging.output.glob(f"{self.options.model}-*.onnx")):
            if path.name in self.wrote or path.stem.endswith(("-failed", "-stale")):
                continue
            with suppress(EdgedetError):  # no file of ours, or of another version
                spec = read_spec(path)
                if (spec.provenance.weights_sha256, spec.input.size) != made_of:
                    log.notes.append(
                        f"{path.name}, of an earlier export, has other weights or another size than"
                        f" {self.plain_name}"
                    )


def part(name: str, stage: Stage, data: bytes | None = None) -> Stage:
    """A stage beside the artifact `name`: "mask-rcnn-int8.plan" -> "mask-rcnn-int8-masks.plan"."""
    path = Path(name)
    digest = "" if data is None else hashlib.sha256(data).hexdigest()
    return replace(stage, file=f"{path.stem}-{stage.name}{path.suffix}", sha256=digest)
