"""Run by torchrun: an epoch of YOLO and a validation that lasts twice as long as the process group waits.

... slow_validation.py VOC_FOLDER RUN_FOLDER
"""

from __future__ import annotations

import functools
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from edgedet.data import Dataset, open_dataset
from edgedet.models import build, make_spec
from edgedet.training import loop, measuring, processes
from edgedet.training.recipe import Recipe
from edgedet.training.run_folder import RunFolder

WAIT = 8.0
SIZE = (64, 64)


class Slow(Dataset):
    """Each image takes half of the time that the group waits for an answer."""

    def image(self, index: int) -> Any:
        """After a while."""
        time.sleep(WAIT / 2)
        return super().image(index)


def main(data: str, folder: str) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    processes.ANSWER_WITHIN = timedelta(seconds=WAIT)
    one = functools.partial(measuring.torch_under_test, batch=1)
    measuring.torch_under_test = one  # type: ignore[assignment]
    train = open_dataset(f"voc:{data}", "train")
    val = Slow(train.name, train.classes, train.truths[:4])
    model = build("yolo", len(train.classes), pretrained=False, size=list(SIZE))
    spec = make_spec("yolo", model, train.classes, size=SIZE)
    place = RunFolder(Path(folder))
    with processes.join("cpu") as group:
        if group.main:
            place.prepare({}, {})
        recipe = Recipe(batch=4, epochs=1)
        for event in loop.Trainer(model, spec, train, val, recipe, place, group, workers=0).run():
            if group.main and "validation" in event:
                print("validated", event["score"])
        if group.main:
            place.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
