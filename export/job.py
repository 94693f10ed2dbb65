"""The whole of `edgedet-export`: checkpoint -> ONNX -> typed for a target -> checked -> artifacts."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from edgedet.calib import PLACEMENTS, Quantised
from edgedet.calib.images import Feeder
from edgedet.calib.verdict import MAX_DROP, Verdict
from edgedet.contract.errors import EngineError, WeightsError
from edgedet.contract.proposals import cached
from edgedet.contract.spec import ModelSpec
from edgedet.data import Dataset
from edgedet.export.accuracy import fewer, open_data
from edgedet.export.artifacts import Artifacts
from edgedet.export.calibrate import calibrate, open_calibration
from edgedet.export.console import LabelledConsole
from edgedet.export.gate import Gate, Search, first_that_passes, frames_of, make_gate
from edgedet.export.graph import OPSET, Graphs, export_graphs
from edgedet.export.latency import side_by_side
from edgedet.export.options import ExportOptions, Log, tools
from edgedet.export.parity import compare
from edgedet.export.report import ExportReport, Row
from edgedet.export.settle import settle
from edgedet.export.staging import Staging
from edgedet.export.targets import Target
from edgedet.export.tensorrt.plan import build_plan
from edgedet.models import make_spec
from edgedet.models.base import Model
from edgedet.runtime import Engine
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
        settle(model, spec.input, frames_of(evaluation, calibration), log)
        graphs = _export(model, spec, log)

        files = Artifacts(options, target, graphs, staging)
        files.plain()
        scales = None if calibration is None else calibrate(options, calibration, graphs, log)
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
                search = Search(options, target, graphs, scales, frames, Feeder(spec, proposer), log)
            quantised, verdict = _typed(options, files, search, gate, log)
            if verdict is not None:
                opened[options.precision.upper()] = engines.enter_context(files.open_typed())
            rows = _rows(opened, files, gate, verdict, target, log)
            if search is not None and verdict is not None and not target.plan and verdict.passed is not None:
                rows.insert(-1, _exact_row(files, gate, verdict, log))

        refused = verdict is not None and not verdict.accepts(unmeasured=options.accept_unmeasured)
        if refused:
            files.refuse()
        if target.plan and (not refused or options.keep_failed) and build_plan(files, quantised, log):
            rows[-1] = replace(rows[-1], size=files.size(files.plan_name))
        files.publish(log)
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
    options: ExportOptions, files: Artifacts, search: Search | None, gate: Gate, log: Log
) -> tuple[Quantised, Verdict | None]:
    """The graph in the precision asked for, written to its file, and the gate's verdict on it."""
    stages = {name: Quantised(graph, (), ()) for name, graph in files.graphs.stages.items()}
    plain = Quantised(files.graphs.core, (), (), stages=stages)
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
        _note_quantisation(quantised, files, log)
    return quantised, verdict


def _note_quantisation(quantised: Quantised, files: Artifacts, log: Log) -> None:
    """Which convolutions are INT8, those that run after NMS among them."""
    parts = (quantised, *quantised.stages.values())
    int8 = [name for q in parts for name in q.int8]
    left = [name for q in parts for name in q.float]
    unsupported, heads = sum(len(q.unsupported) for q in parts), len(files.graphs.spec.outputs)
    placement = PLACEMENTS[files.target.name]
    if unsupported:
        log.notes.append(f"{unsupported} transposed convolutions left in float: {placement.float_transposed}")
    log.console.line(
        "quantise",
        f"{len(int8)} of {len(int8) + len(left)} convolutions INT8; float: decode,"
        f" {heads} head output{'s' * (heads > 1)}{''.join(f', {name}' for name in left)}",
    )
    log.facts["quantisation"] = {
        "int8 convolutions": len(int8),
        "convolutions": len(int8) + len(left),
        "left in float": left,
        "activations": placement.activations,
    }


def _exact_row(files: Artifacts, gate: Gate, verdict: Verdict, log: Log) -> Row:
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
    files: Artifacts,
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
