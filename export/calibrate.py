"""Where an INT8 export's ranges come from: images, or a cache made from images before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgedet.calib import Scales, observe
from edgedet.calib.images import CalibrationSet
from edgedet.contract.errors import CalibrationError
from edgedet.contract.proposals import Proposer
from edgedet.contract.spec import ModelSpec
from edgedet.data import KINDS, open_dataset
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


def calibrate(options: ExportOptions, source: CalibrationSet | Scales, core: Any, log: Log) -> Scales:
    """The ranges of `core` (onnx.ModelProto), observed under a progress bar or taken from the cache.

    Raises CalibrationError: the cache belongs to another graph, or no image could be used.
    """
    skipped: list[str] = []
    if isinstance(source, Scales):
        scales = source
        name = options.calib_cache.name if options.calib_cache else "beside the weights"
        scales.check(core, f"The calibration cache {name}")
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
        how = f"in {time.perf_counter() - started:.0f} s"
        skipped = source.skipped
        if doubts := source.doubts():
            log.notes.append(f"{doubts}: the ranges mean little; give typical --calib-data")
    if skipped:
        log.notes.append(f"calibration skipped {len(skipped)} unreadable images, the first: {skipped[0]}")
    log.console.line(
        "calibrate", f"{scales.images} images {how}; ranges settled after {scales.settled} ({scales.method})"
    )
    log.facts["calibration"] = {
        "data": scales.data,
        "images": scales.images,
        "skipped": len(skipped),
        "method": scales.method,
        "ranges settled after": scales.settled,
        "source": how,
    }
    return scales
