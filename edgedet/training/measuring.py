"""A validation, on the main process of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgedet.contract.errors import EmptyDataset
from edgedet.contract.results import Result
from edgedet.evaluation.evaluate import Image
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.training.tasks import Measured, Training

if TYPE_CHECKING:
    from edgedet.training.loop import Trainer


def measure(trainer: Trainer, task: Training) -> tuple[Measured | None, str]:
    """On the main process: what was found (None: nothing), and why there may be no score.

    Of the averaged weights on the validation data, by what the task measures.
    """
    val = trainer.val
    assert val is not None
    if not trainer.processes.main:
        while not trainer.agree():
            pass
        return None, ""
    model = torch_under_test(
        trainer.average,
        trainer.spec,
        device=trainer.processes.device,
        thresholds=task.thresholds,
        proposer=trainer.proposer,
    )

    def many(images: Sequence[Image]) -> Sequence[Result]:
        trainer.agree()  # the others wait: they learn that this process is alive, or that it was stopped
        return model.many(images)

    reason = f"{val.name} has no object of the model's classes in the images that were looked at"
    metrics: Measured | None = None
    try:
        predict = replace(model, many=many)
        metrics = task.evaluate(predict, val, limit=trainer.eval_limit, progress=False)
    except EmptyDataset as e:
        reason = e.message
    trainer.agree(done=True)
    return metrics, reason
