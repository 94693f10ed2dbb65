"""The accuracy gate of an export: what is measured, and what is tried where INT8 falls short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edgedet.calib import PLACEMENTS, Quantised, Scales, quantise
from edgedet.calib.images import CalibrationSet, Feeder
from edgedet.calib.qdq import quantisable_layers
from edgedet.calib.sensitivity import rank
from edgedet.calib.verdict import MAX_DROP, Verdict
from edgedet.contract.proposals import Proposer
from edgedet.data import Dataset
from edgedet.export.accuracy import ACCURACY, MAX_FRAMES, Frames, Measure
from edgedet.export.graph import Graphs
from edgedet.export.options import ExportOptions, Log
from edgedet.export.targets import Target
from edgedet.runtime import Engine

RANKED_ON = 12
"""Images that the sensitivity of layers is measured on."""

Eval = Dataset | Frames | None
Calibration = CalibrationSet | Scales | None


@dataclass(frozen=True)
class Gate:
    """How good FP32 is and how good anything else may be. `measure` is None where nothing can be measured.

    kind: "AP", "mIoU" or "agreement"; data: where; reference, allowed: percent; metric: the key under
    which a spec says what was measured, empty where it is no accuracy; unmeasured: why there is no measure.
    """

    kind: str = ""
    data: str = ""
    measure: Measure | None = None
    reference: float | None = None
    allowed: float | None = None
    metric: str = ""
    unmeasured: str = ""

    def judge(self, engine: Engine) -> Verdict:
        """Measure an engine and compare."""
        if self.measure is None:
            return Verdict(self.kind, self.reference, None, self.allowed, self.unmeasured)
        found = self.measure(engine)
        why = "" if found is not None else f"{self.data} gives it no {self.kind}"
        return Verdict(self.kind, self.reference, found, self.allowed, why)


def make_gate(
    options: ExportOptions,
    reference: Engine,
    evaluation: Eval,
    calibration: Calibration,
    log: Log,
    proposer: Proposer | None = None,
) -> Gate:
    """AP or mIoU where there is truth, else agreement with `reference` (FP32) on real frames, or nothing.

    proposer: of regions, where the graphs take them, instead of the spec's own.
    """
    task = ACCURACY[reference.spec.task]
    if isinstance(evaluation, Dataset):
        measure = task.labelled(evaluation, progress=log.console.bars, proposer=proposer)
        found = measure(reference)
        if found is None:
            return _unmeasured(f"{evaluation.name} holds nothing that the model could find", log)
        # a share of nothing: whatever INT8 has would pass
        if found <= min(options.max_drop, MAX_DROP):
            return _unmeasured(f"FP32 itself has {found:.2f} {task.short} on {evaluation.name}", log)
        log.facts["accuracy"] = {"measure": task.full, "data": evaluation.name}
        return Gate(task.short, evaluation.name, measure, found, found - options.max_drop, task.metric)
    frames = frames_of(evaluation, calibration)
    if frames is None:
        return _unmeasured("no images to measure on", log)
    compared = task.agreement(reference, frames, proposer)
    if compared is None:
        return _unmeasured(f"FP32 finds nothing on {frames.name}", log)
    what = f"agreement with FP32's {task.results}"
    log.facts["accuracy"] = {"measure": what, "data": frames.name}
    log.notes.append(f"{what} on {frames.name}; labelled --eval-data gives {task.short}")
    return Gate("agreement", frames.name, compared, 100.0, options.min_agreement)


def _unmeasured(why: str, log: Log) -> Gate:
    log.notes.append(f"accuracy: {why}; give other --eval-data KIND:PATH, or a video")
    return Gate(unmeasured=why)


def frames_of(evaluation: Eval, calibration: Calibration) -> Frames | None:
    """Real images: those for evaluation, else calibration images, held out ones where there are."""
    if isinstance(evaluation, Dataset):
        step = max(1, len(evaluation) // MAX_FRAMES)
        return Frames(evaluation.name, range(0, len(evaluation), step), evaluation.image)
    if evaluation is not None:
        return evaluation
    if not isinstance(calibration, CalibrationSet):
        return None
    indices, held_out = calibration.frames(MAX_FRAMES)
    origin = "held out from" if held_out else "that it was calibrated on, of"
    name = f"{len(indices)} images {origin} {calibration.dataset.name}"
    return Frames(name, indices, calibration.dataset.image)


@dataclass
class Search:
    """INT8 graphs to try, best first: all convolutions; then, if the gate refuses, without those that run
    after NMS; then with the most sensitive 1, 2, 4, ... left in float, up to half of them.

    sensitivity: (layer, decibels gained by leaving it in float), filled when it was looked at.
    """

    options: ExportOptions
    target: Target
    graphs: Graphs
    scales: Scales
    frames: Frames | None
    feed: Feeder
    log: Log
    sensitivity: tuple[tuple[str, float], ...] = ()

    def __iter__(self) -> Iterator[Quantised]:
        placement = PLACEMENTS[self.target.name]
        if self.options.sensitivity:
            self.look()
        core, stages = self.graphs.core, self.graphs.stages
        after = {name: quantise(g, self.scales.stages[name], placement) for name, g in stages.items()}
        full = replace(quantise(core, self.scales, placement), stages=after)
        yield full
        if stages:
            layers = {name: (*q.int8, *q.float) for name, q in after.items()}
            after = {name: Quantised(g, (), layers[name]) for name, g in stages.items()}
            yield replace(full, stages=after)
        if not self.sensitivity:
            self.look()
        costly = [layer for layer, gain in self.sensitivity if gain > 0][: len(full.int8) // 2]
        count = 1
        while costly:
            some = quantise(core, self.scales, placement, keep_float=costly[:count])
            yield replace(some, stages=after)
            if count >= len(costly):
                return
            count *= 2

    def look(self) -> None:
        """Rank the layers by what they cost, on a dozen images; does nothing where there are none."""
        if self.frames is None:
            self.log.notes.append("sensitivity: no images to measure on; give --calib-data or --eval-data")
            return
        step = max(1, len(self.frames.indices) // RANKED_ON)
        some = replace(self.frames, indices=list(self.frames.indices)[::step][:RANKED_ON])
        images = [self.feed(image) for image in some.images()]
        placement = PLACEMENTS[self.target.name]
        core = self.graphs.core
        regions = next((o.name for o in self.graphs.spec.outputs if o.role == "proposals"), "")
        with self.log.console.bar("sensitivity", len(quantisable_layers(core, placement))) as advance:
            found = rank(core, self.scales, placement, images, regions=regions, on_layer=advance)
            self.sensitivity = tuple(found)


def first_that_passes(
    graphs: Iterator[Quantised], judge: Callable[[Quantised], Verdict], log: Log
) -> tuple[Quantised, Verdict]:
    """Try one after the other until the gate passes or cannot say; the last one where none passes."""
    for quantised in graphs:
        verdict = judge(quantised)
        if verdict.passed is not False:
            break
        left = sum(len(q.float) for q in (quantised, *quantised.stages.values()))
        log.console.line(
            "gate",
            f"{verdict.quantised:.2f} {verdict.measure} with {left} layers in float;"
            f" at least {verdict.allowed:.2f} wanted",
        )
    return quantised, verdict
