"""Where an INT8 export's ranges come from: images, or a cache made from images before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.calib import Scales, observe
from edgedet.calib.images import CalibrationSet
from edgedet.calib.observe import Feed, cpu_session
from edgedet.contract.errors import CalibrationError
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import place
from edgedet.contract.proposals import Proposer
from edgedet.contract.spec import ModelSpec, Stage
from edgedet.data import KINDS, open_dataset
from edgedet.export.graph import Graphs
from edgedet.export.options import ExportOptions, Log


def open_calibration(
    options: ExportOptions, weights: Path, spec: ModelSpec, proposer: Proposer | None = None
) -> CalibrationSet | Scales:
    """The images to calibrate on or, where none are named, the cache named or beside the weights.

    proposer: of regions, where the graph takes them, instead of the spec's own.

    Raises:
        EmptyDataset, DataError: `--calib-data` cannot be used. CalibrationError: nothing to calibrate
            with, or a damaged cache.
    """
    if options.calib_data:
        kind, colon, _ = options.calib_data.partition(":")
        named = options.calib_data if colon and kind in KINDS else f"folder:{options.calib_data}"
        data = open_dataset(named, "train")
        return CalibrationSet(data, spec, options.calib_images, proposer=proposer)
    cache = options.calib_cache or weights.parent / "calibration.json"
    if options.calib_cache is None and not cache.is_file():
        raise CalibrationError(
            f"INT8 needs a calibration, and there is none beside {weights.name}.",
            hint="Give images: --calib-data voc:PATH or folder:PATH.",
        )
    return Scales.load(cache)


def calibrate(options: ExportOptions, source: CalibrationSet | Scales, graphs: Graphs, log: Log) -> Scales:
    """The ranges of the core and of what runs after NMS, observed on images or taken from the cache.

    Raises CalibrationError: the cache belongs to another graph, or no image could be used.
    """
    skipped: list[str] = []
    core = graphs.core
    if isinstance(source, Scales):
        scales = source
        name = options.calib_cache.name if options.calib_cache else "beside the weights"
        scales.check(core, f"The calibration cache {name}")
        for stage, graph in graphs.stages.items():
            if stage not in scales.stages:
                raise CalibrationError(
                    f"The calibration cache {name} has no ranges for the stage {stage!r}.",
                    hint="Calibrate again: --calib-data KIND:PATH.",
                )
            scales.stages[stage].check(graph, f"The stage {stage!r} of the calibration cache {name}")
        how = f"from the cache {name}"
    else:
        started = time.perf_counter()
        with log.console.bar("calibrate", len(source)) as advance:
            scales = observe(
                core,
                source,
                total=len(source),
                data=source.describe,
                method=options.calib_method,
                on_image=advance,
            )
        stages = {s.name: _observe_stage(options, graphs, s, source, log) for s in graphs.spec.stages}
        scales = replace(scales, stages=stages)
        how = f"in {time.perf_counter() - started:.0f} s"
        skipped = source.skipped
        if doubts := source.doubts():
            log.notes.append(f"{doubts}: the ranges mean little; give typical --calib-data")
    if skipped:
        log.notes.append(f"calibration skipped {len(skipped)} unreadable images, the first: {skipped[0]}")
    also = "".join(f"; {s.images} with objects for the {name}" for name, s in scales.stages.items())
    log.console.line(
        "calibrate",
        f"{scales.images} images {how}; ranges settled after {scales.settled} ({scales.method}){also}",
    )
    log.facts["calibration"] = {
        "data": scales.data,
        "images": scales.images,
        "skipped": len(skipped),
        "method": scales.method,
        "ranges settled after": scales.settled,
        "source": how,
        **{f"images with objects for the {name}": s.images for name, s in scales.stages.items()},
    }
    return scales


def _observe_stage(
    options: ExportOptions, graphs: Graphs, stage: Stage, source: CalibrationSet, log: Log
) -> Scales:
    """The ranges of a graph that runs after NMS, over what it is given on the calibration images."""
    feeds = _given(graphs, stage, source)
    first = next(feeds, None)
    if first is None:
        raise CalibrationError(
            f"Nothing was found on {len(source)} calibration images, and so nothing for the stage"
            f" {stage.name!r} to be calibrated on.",
            hint="Give --calib-data pictures of what the model is for, or trained --weights.",
        )
    with log.console.bar(f"calibrate {stage.name}", len(source)) as advance:
        return observe(
            graphs.stages[stage.name],
            chain([first], feeds),
            total=len(source),
            data=source.describe,
            method=options.calib_method,
            on_image=advance,
        )


def _given(graphs: Graphs, stage: Stage, source: CalibrationSet) -> Iterator[Feed]:
    """What a stage is given in deployment on each image where something is kept, its rows filled.

    Rows without a box are not left empty, but show the boxes that there are once more: else most of what is
    counted would be features of nothing.
    """
    given: list[Feed] = []

    def record(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        given.append(tensors)
        return {o.name: np.zeros([1, *(n or 1 for n in o.shape[1:])], np.float32) for o in stage.outputs}

    spec = graphs.decoded_spec
    names = [o.name for o in spec.outputs]
    session = cpu_session(graphs.decoded())
    postprocess = make_postprocessor(spec, {stage.name: record})
    whole = place(spec.input.width, spec.input.height, spec.input)
    kept = next(t.name for t in stage.inputs if t.role == "boxes")
    for feed in source:
        given.clear()
        postprocess(dict(zip(names, session.run(names, dict(feed)), strict=True)), [whole])
        if given:  # those with the highest scores
            boxes = given[0][kept][0]
            some = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
            if len(some):
                yield {**given[0], kept: np.resize(some, (1, *boxes.shape))}
