"""How many rounds of suppression a two-stage graph needs, found on real images before it is exported."""

from __future__ import annotations

import torch

from edgedet.contract.errors import ImageError
from edgedet.contract.preprocess import preprocess
from edgedet.contract.spec import Input
from edgedet.export.accuracy import Frames
from edgedet.export.options import Log
from edgedet.models.base import Model


@torch.no_grad()
def settle(model: Model, spec: Input, frames: Frames | None, log: Log) -> None:
    """Raise the model's `rounds` where real images need more; does nothing where it has none.

    In the plain form of `models.regions` the suppression of proposals is exact once it has run as many rounds
    as the longest chain in which each box suppresses the next. How long chains are depends on the weights and
    on what is seen, so it is looked at for each export. Where rounds are too few, there will be half as many
    again as were needed. Without images the number stays as it is, and a note says so.
    """
    if not model.rounds or model.operators:
        return
    seen, needed = _needed(model, spec, frames, log) if frames is not None else (0, 0)
    if frames is None or not seen:
        log.notes.append(
            f"whether {model.rounds} rounds of suppression of proposals are enough was tried on no image;"
            " give --calib-data or --eval-data"
        )
        return
    text = f"{model.rounds} rounds of suppression of proposals; {frames.name} need up to {needed}"
    if needed > model.rounds:
        model.rounds = needed + needed // 2
        text += f": now {model.rounds}"
    log.console.line("regions", text)
    log.facts["regions"] = {"rounds": model.rounds, "rounds needed": needed, "images": seen}


def _needed(model: Model, spec: Input, frames: Frames, log: Log) -> tuple[int, int]:
    """How many images could be read, and the most rounds that one of them needs."""
    training = model.training
    model.eval()
    seen, needed = 0, 0
    with log.console.bar("regions", len(frames.indices)) as advance:
        for index in frames.indices:
            try:
                image = frames.read(index)
            except ImageError:
                continue
            needed = max(needed, model.rounds_needed(torch.from_numpy(preprocess(image, spec)[0])))
            seen += 1
            advance(seen)
    model.train(training)
    return seen, needed
