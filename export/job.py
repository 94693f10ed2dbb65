"""The whole of `edgedet-export`: checkpoint -> ONNX -> typed for a target -> checked -> artifacts."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import onnx

from edgedet.calib import PLACEMENTS, Quantised, Scales
from edgedet.calib.images import Feeder
from edgedet.calib.verdict import MAX_DROP, Verdict
from edgedet.contract.errors import EdgedetError, EngineError, WeightsError
from edgedet.contract.files import output_error
from edgedet.contract.proposals import cached
from edgedet.contract.spec import MAP_KINDS, ModelSpec
from edgedet.data import Dataset
from edgedet.export.accuracy import fewer, open_data
from edgedet.export.calibrate import calibrate, open_calibration
from edgedet.export.console import LabelledConsole
from edgedet.export.gate import Gate, Search, first_that_passes, frames_of, make_gate
from edgedet.export.graph import OPSET, Graphs, export_graphs, to_bytes, with_digest, with_spec
from edgedet.export.latency import side_by_side
from edgedet.export.options import ExportOptions, Log, tools
from edgedet.export.parity import compare
from edgedet.export.passes.half import to_half
from edgedet.export.passes.pixels import from_pixels
from edgedet.export.report import ExportReport, Row
from edgedet.export.staging import Staging
from edgedet.export.targets import Target
from edgedet.export.tensorrt.plan import build_for
from edgedet.models import make_spec
from edgedet.models.base import Model
from edgedet.runtime import Engine, open_engine, read_spec
from edgedet.runtime.hardware import cores, cpu_name
from edgedet.training.checkpoint import load_model
from edgedet.weights import find


def run(options: ExportOptions, console: LabelledConsole) -> ExportReport:
    """Do it all; the caller shows the report and lets its verdict raise.

    Where the gate fails, or has nothing to measure on, FP32 and the report are written, but nothing of the
    precision that failed (unless `keep_failed`, and then under a name that says so). A file of that
    precision from an earlier export gets a name that says so too: it does not belong to this FP32.

    Raises:
        EdgedetError: as its parts do. Nothing half-made stays behind.
    """
    started = time.perf_counter()
    target = options.check()
    weights = options.weights or find(options.model)
    log = Log(console)
    with Staging(options.output) as staging:
        model, spec = _load(options, weights, log)
        # opened before any long work, so that a wrong path fails at once
        evaluation = open_data(options.eval_data, "val", spec.task) if options.eval_data else None
        if isinstance(evaluation, Dataset):
            evaluation = fewer(evaluation, options.eval_images)
        # every precision is measured on the same images
        proposer = cached(spec.proposals, options.proposals_cache or staging.folder / "proposals")
        calibration = None
        if options.precision == "int8":
            calibration = open_calibration(options, weights, spec, proposer)
        graphs = _export(model, spec, log)

        files = _Files(options, target, graphs, staging)
        files.plain()
        scales = None if calibration is None else calibrate(options, calibration, graphs.core, log)
        if scales is not None and scales is not calibration:
            files.cache(scales)
        with ExitStack() as engines:
            opened = {"FP32": engines.enter_context(files.open(files.plain_name))}
            if not target.plan:
                with suppress(EngineError):  # this engine or CPU has none: no row
                    opened["BF16"] = engines.enter_context(files.open(files.plain_name, precision="bf16"))
            gate = make_gate(options, opened["FP32"], evaluation, calibration, log, proposer)
            search = None
            if scales is not None:
                frames = frames_of(evaluation, calibration)
                search = Search(options, target, graphs.core, scales, frames, Feeder(spec, proposer), log)
            quantised, verdict = _typed(options, files, search, gate, log)
            if verdict is not None:
                opened[options.precision.upper()] = engines.enter_context(files.open_typed())
            rows = _rows(opened, files, gate, verdict, target, log)
            if search is not None and verdict is not None and not target.plan and verdict.passed is not None:
                rows.insert(-1, _exact_row(files, gate, verdict, log))

        refused = verdict is not None and not verdict.accepts(unmeasured=options.accept_unmeasured)
        if target.plan and (not refused or options.keep_failed):
            plan = build_for(target, options, files.graph, files.spec, quantised.int8, log)
            if plan is not None:
                staging.write(files.plan_name, plan)
                rows[-1] = replace(rows[-1], size=len(plan))
        files.publish(log, refused=refused)
        reports = [f"{options.stem(target)}.report.{ending}" for ending in ("json", "html")]
        report = ExportReport(
            model=options.model,
            precision=options.precision,
            target=target.name,
            engine=opened["FP32"].name,
            facts=log.facts,
            rows=tuple(rows),
            verdict=verdict,
            notes=tuple(log.notes),
            wrote=(*files.wrote, *reports),
            sensitivity=search.sensitivity if search else (),
            machine={"cpu": cpu_name(), "cores": cores(), **tools()},
            seconds=round(time.perf_counter() - started, 1),
        )
        for name, text in zip(reports, (report.to_json(), report.to_html()), strict=True):
            staging.write(name, text)
            staging.publish(name)
        return report


class _Files:
    """The ONNX files of one export: made in the staging folder, published at the end."""

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

    def plain(self) -> None:
        """FP32, pixels -> boxes and scores, or a class map."""
        for stage in self.graphs.spec.stages:
            self.staging.write(stage.file, to_bytes(with_digest(self.graphs.stages[stage.name])))
        self.save(self.plain_name, *from_pixels(self.graphs.decoded(), self.graphs.decoded_spec))

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
        self.graph = core if self.heads else self.graphs.decoded(core)
        spec = self.graphs.spec if self.heads else self.graphs.decoded_spec
        provenance = replace(spec.provenance, calibration=calibration)
        self.spec = spec.with_(precision=options.precision, metrics=metrics, provenance=provenance)
        if not self.target.plan:
            self.graph, self.spec = from_pixels(self.graph, self.spec)
        self.save(self.typed_name, self.graph, self.spec)

    def save(self, name: str, graph: onnx.ModelProto, spec: ModelSpec) -> None:
        self.staging.write(name, to_bytes(with_spec(graph, spec)))

    def size(self, name: str) -> int:
        return (self.staging.folder / name).stat().st_size

    def open(self, name: str, *, precision: str | None = None) -> Engine:
        return open_engine(self.staging.folder / name, engine=self.target.engine, precision=precision)

    def open_typed(self) -> Engine:
        """The precision asked for, in the arithmetic that the gate judges."""
        return self.open(self.typed_name, precision=self.target.judged_in)

    def open_exact(self) -> Engine:
        """The precision asked for, as its graph is written: the same on every CPU."""
        return open_engine(self.staging.folder / self.typed_name, engine="onnxruntime", precision="exact")

    def publish(self, log: Log, *, refused: bool) -> None:
        """Give the files their names; what the gate refused gets one that says so, or none."""
        if refused:
            self._retire(log)
        # the first graph last: what is there is whole
        for stage in self.graphs.spec.stages:
            self.wrote.append(self.staging.publish(stage.file).name)
        self.wrote.append(self.staging.publish(self.plain_name).name)
        for name in (self.typed_name, self.plan_name):
            if name == self.plain_name or not (self.staging.folder / name).exists():
                continue
            if not refused:
                self.wrote.append(self.staging.publish(name).name)
            elif self.options.keep_failed:
                under = f"{self.stem}-failed{Path(name).suffix}"
                self.wrote.append(self.staging.publish(name, under=under).name)
        self._note_others(log)

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

    def _retire(self, log: Log) -> None:
        """Rename what an earlier export left under the names that this one was refused.

        Left as it is, it would be taken for the INT8 of the FP32 that is written now.
        """
        for name in (self.typed_name, self.plan_name):
            old = self.staging.output / name
            if name == self.plain_name or not old.exists():
                continue
            stale = old.with_name(f"{self.stem}-stale{old.suffix}")
            try:
                old.replace(stale)
            except OSError as e:
                raise output_error(stale, e) from e
            log.notes.append(f"{name} of an earlier export does not belong to these files: now {stale.name}")


def _load(options: ExportOptions, weights: Path, log: Log) -> tuple[Model, ModelSpec]:
    """The checkpoint and its spec at the size asked for."""
    model, spec = load_model(weights)
    if spec.model != options.model:
        raise WeightsError(
            f"{weights} holds weights of {spec.model!r}, not of {options.model!r}.",
            hint=f"Use --model {spec.model}.",
        )
    height, width = size = options.size or spec.input.size
    if size != spec.input.size:
        resized = make_spec(spec.model, model, spec.classes, size=size)
        changed = replace(spec.input, height=height, width=width)
        spec = spec.with_(input=changed, outputs=resized.outputs, stages=resized.stages, metrics={})
    known = spec.provenance
    trained = f" ({known.data})" if known.data else ""
    log.console.line(
        "",
        f"{spec.model} · {spec.task} · {len(spec.classes)} classes · {height}x{width}"
        f" · weights {known.weights_sha256[:8]}{trained}",
    )
    log.facts["model"] = {
        "name": spec.model,
        "classes": len(spec.classes),
        "size": f"{height}x{width}",
        "weights": known.weights_sha256,
        "trained on": known.data,
    }
    return model, spec.with_(provenance=replace(known, tools=tools()))


def _export(model: Model, spec: ModelSpec, log: Log) -> Graphs:
    """ONNX, simplified, and equal to the eager model."""
    started = time.perf_counter()
    graphs = export_graphs(model, spec)
    decoded = graphs.decoded()
    found = compare(model, graphs.spec, decoded)
    total, heads = len(decoded.graph.node), len(graphs.core.graph.node)
    log.console.line(
        "export",
        f"ONNX opset {OPSET}, {total} nodes after simplification ({heads} to the heads);"
        f" equals eager to {found.heads:.0e}, {found}",
    )
    log.facts["export"] = {
        "opset": OPSET,
        "nodes": total,
        "nodes to the heads": heads,
        "largest difference of heads": found.heads,
        "largest difference of results": found.results,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return graphs


def _typed(
    options: ExportOptions, files: _Files, search: Search | None, gate: Gate, log: Log
) -> tuple[Quantised, Verdict | None]:
    """The graph in the precision asked for, written to its file, and the gate's verdict on it."""
    plain = Quantised(files.graphs.core, (), ())
    if options.precision == "fp32":
        if files.target.plan:
            files.typed(plain, dict(files.graphs.spec.metrics), "")
        return plain, None
    calibration = f"{search.scales.method}, {search.scales.data}" if search else ""

    measured_with: list[str] = []

    def judge(quantised: Quantised) -> Verdict:
        files.typed(quantised, {}, calibration)
        with files.open_typed() as engine:
            measured_with.append(engine.name)
            return gate.judge(engine)

    quantised, verdict = first_that_passes(iter(search or [plain]), judge, log)
    if verdict.quantised is not None:
        log.facts["accuracy"] = {**log.facts["accuracy"], "measured with": measured_with[-1]}
    if gate.metric and verdict.quantised is not None:
        metrics = {f"{gate.metric}@{gate.data}": round(verdict.quantised / 100, 5)}
        files.typed(quantised, metrics, calibration)
    if search is not None:
        total, heads = len(quantised.int8) + len(quantised.float), len(files.graphs.spec.outputs)
        left = f", {', '.join(quantised.float)}" if quantised.float else ""
        placement = PLACEMENTS[files.target.name]
        if quantised.unsupported:
            count = len(quantised.unsupported)
            log.notes.append(f"{count} transposed convolutions left in float: {placement.float_transposed}")
        log.console.line(
            "quantise",
            f"{len(quantised.int8)} of {total} convolutions INT8; float: decode,"
            f" {heads} head output{'s' * (heads > 1)}{left}",
        )
        log.facts["quantisation"] = {
            "int8 convolutions": len(quantised.int8),
            "convolutions": total,
            "left in float": list(quantised.float),
            "activations": placement.activations,
        }
    return quantised, verdict


def _exact_row(files: _Files, gate: Gate, verdict: Verdict, log: Log) -> Row:
    """The deployed INT8 graph in exact arithmetic, beside what this CPU's INT8 kernels make of it.

    The gate judges what runs here; where the two differ, another CPU may differ too.
    """
    with files.open_exact() as engine:
        exact = gate.judge(engine).quantised
    if exact is not None and verdict.quantised is not None:
        log.facts["accuracy"] = {**log.facts["accuracy"], "in exact arithmetic": round(exact, 3)}
        if abs(exact - verdict.quantised) > MAX_DROP:
            log.notes.append(
                f"INT8 has {verdict.quantised:.2f} {verdict.measure} with the kernels of this CPU and"
                f" {exact:.2f} in exact arithmetic: measure it where it will run"
            )
    return Row("INT8 exact", files.size(files.typed_name), accuracy=exact)


def _rows(
    opened: dict[str, Engine],
    files: _Files,
    gate: Gate,
    verdict: Verdict | None,
    target: Target,
    log: Log,
) -> list[Row]:
    """Size, latency side by side, accuracy; the sizes are those of the ONNX files."""
    accuracy: dict[str, float | None] = {"FP32": gate.reference}
    if "BF16" in opened:
        accuracy["BF16"] = gate.judge(opened["BF16"]).quantised
    latency = {} if target.plan else side_by_side(opened)
    if target.plan:
        log.notes.append("latency: a plan runs on its own GPU only; edgedet-bench measures it there")
    rows = []
    for name in opened:
        typed = name not in ("FP32", "BF16")
        timing = latency.get(name)
        rows.append(
            Row(
                name,
                files.size(files.typed_name if typed else files.plain_name),
                timing.p50 if timing else None,
                timing.p99 if timing else None,
                verdict.quantised if typed and verdict else accuracy.get(name),
            )
        )
    return rows
