"""How many objects a proposer gives the detector a chance to find: one from outside, or a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgedet.contract.boxes import pairwise_iou
from edgedet.contract.errors import DataError
from edgedet.contract.proposals import Proposer
from edgedet.contract.results import Detections
from edgedet.data import Dataset
from edgedet.evaluation.evaluate import ModelUnderTest, Predict, coverage, predictions, spread
from edgedet.evaluation.metrics import ProposalMetrics


def first_hits(
    proposals: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], iou: float = 0.5
) -> npt.NDArray[np.float64]:
    """(m,): the place (0 = first) of the first of n proposals (n, 4) that overlaps each of m boxes (m, 4) by
    at least `iou`; infinity where none does.
    """
    if not len(proposals):
        return np.full(len(truth), np.inf)
    hit = pairwise_iou(truth, proposals) >= iou
    return np.where(hit.any(axis=1), hit.argmax(axis=1), np.inf)


def proposal_recall(
    proposer: Proposer,
    dataset: Dataset,
    counts: Sequence[int] = (300, 500, 1000),
    *,
    limit: int | None = None,
    iou: float = 0.5,
) -> tuple[dict[int, float], float]:
    """The share of objects that the best 300, 500, ... proposals of their image overlap; how many there are.

    Uijlings et al. 2013, 5.1, over all classes together; ignored objects are left out.

    Args:
        proposer: of regions. dataset: with boxes. limit: only so many images, evenly spread.
        iou: the overlap that counts.

    Returns:
        {count: recall in [0, 1]} (NaN without objects), and the mean number of proposals of an image.

    Raises:
        ImageError: an image cannot be read.
    """
    places, number = [np.zeros(0)], []
    for index in spread(len(dataset), limit):
        truth = dataset.truths[index]
        found = proposer(dataset.image(index))
        number.append(len(found))
        places.append(first_hits(found, truth.boxes[~truth.ignore], iou))
    every = np.concatenate(places)
    share = {k: float((every < k).mean()) if len(every) else float("nan") for k in counts}
    return share, float(np.mean(number))


def evaluate_proposals(
    predict: Predict | ModelUnderTest,
    dataset: Dataset,
    *,
    limit: int | None = None,
    iou: float = 0.5,
    progress: bool = True,
) -> ProposalMetrics:
    """The share of objects that any of their image's regions overlaps, whatever either is called.

    Uijlings et al. 2013, 5.1, over all classes together; ignored objects are left out.

    Args:
        predict: image (H, W, 3) uint8 BGR -> Detections in its pixels: the regions. dataset: with boxes.
        limit: evaluate only this many images, evenly spread. iou: the overlap that counts.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the data set or the model gives no boxes. EmptyDataset: no image can be read. Unreadable
            ones are skipped, counted and noted.
    """
    if not dataset.labelled or dataset.semantic:
        raise DataError(
            f"{dataset.name} has no boxes to compare with.", hint="Evaluate on voc:, coco: or yolo: data."
        )
    indices = spread(len(dataset), limit)
    skipped: list[str] = []
    places, number = [np.zeros(0)], []
    for truth, found in predictions(predict, dataset, indices, dataset.truths.__getitem__, skipped, progress):
        if not isinstance(found, Detections):
            raise DataError(f"The model gives a {type(found).__name__}, not regions.")
        number.append(len(found))
        places.append(first_hits(found.boxes, truth.boxes[~truth.ignore], iou))
    every = np.concatenate(places)
    return ProposalMetrics(
        data=dataset.name,
        fingerprint=dataset.fingerprint(),
        images=len(number),
        skipped=len(skipped),
        iou=iou,
        objects=len(every),
        recall=float(np.isfinite(every).mean()) if len(every) else None,
        proposals=float(np.mean(number)),
        notes=(*coverage(dataset, indices, skipped), *dataset.notes),
        not_measured="" if len(every) else f"there is no object that counts in {len(number)} images",
    )
