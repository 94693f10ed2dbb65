"""The losses of detectors that correct anchors or regions, normalised as the lecture writes them.

Terms come already weighted: the loss is their plain sum. All are computed in float32, whatever precision the
heads were computed in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgedet.models.sampling import hardest_negatives


def smooth_l1(difference: Tensor) -> Tensor:
    """0.5 x^2 where |x| < 1, |x| - 0.5 elsewhere (Girshick 2015, equation 3; lecture, "Fast R-CNN")."""
    size = difference.abs()
    return torch.where(size < 1, 0.5 * size.square(), size - 0.5)


def rpn_loss(
    objectness: Tensor,
    wanted: Tensor,
    deltas: Tensor,
    wanted_deltas: Tensor,
    images: int,
    *,
    n_cls: float = 256,
    n_box: float = 2400,
    balance: float = 10.0,
) -> dict[str, Tensor]:
    """The loss of a Region Proposal Network (Ren et al. 2016, equation 1; lecture, "Faster R-CNN"):

    L = 1/N_cls sum L_cls + lambda/N_box sum p* smoothL1(t - t*), of one image; here the mean over images.

    L_cls is the log loss over object or not, as a sigmoid. N_cls is the size of an image's sample, N_box
    about the number of its positions, lambda balances the two.

    Args:
        objectness: (s,) logits of the sampled anchors of all images. wanted: (s,) 1 for objects, else 0.
        deltas, wanted_deltas: (p, 4) of the positive ones among them.
        images: N, how many images they were sampled from.
        n_cls, n_box, balance: N_cls, N_box and lambda.

    Returns:
        {"rpn_class", "rpn_box"}, scalars.
    """
    classes = functional.binary_cross_entropy_with_logits(objectness.float(), wanted.float(), reduction="sum")
    boxes = smooth_l1(deltas.float() - wanted_deltas.float()).sum()
    return {"rpn_class": classes / (n_cls * images), "rpn_box": boxes * balance / (n_box * images)}


def region_loss(
    class_logits: Tensor, deltas: Tensor, labels: Tensor, wanted_deltas: Tensor
) -> dict[str, Tensor]:
    """The multi-task loss of a region (Girshick 2015, equation 1; lecture, "Fast R-CNN"), mean over regions:

    L = L_cls(p, u) + 1[u >= 1] L_box(t^u, v), L_cls = -log p_u, L_box = sum smoothL1(t^u - v).

    Args:
        class_logits: (r, K + 1), background first. deltas: (r, 4 K), four for each class.
        labels: (r,) int64: u, 0 is background. wanted_deltas: (r, 4): v; of background, anything.

    Returns:
        {"class", "box"}, scalars; 0 without regions.
    """
    n = max(1, len(labels))
    classes = functional.cross_entropy(class_logits.float(), labels, reduction="sum")
    rows = torch.nonzero(labels > 0).flatten()
    own = deltas.reshape(len(labels), class_logits.shape[1] - 1, 4)[rows, labels[rows] - 1]
    boxes = smooth_l1(own.float() - wanted_deltas[rows].float()).sum()
    return {"class": classes / n, "box": boxes / n}


def ssd_loss(
    class_logits: Tensor,
    deltas: Tensor,
    labels: Tensor,
    wanted_deltas: Tensor,
    *,
    ratio: float = 3.0,
    balance: float = 1.0,
) -> dict[str, Tensor]:
    """SSD's loss (Liu et al. 2016, equations 1 to 3): L = 1/N (L_conf + alpha L_loc).

    N is the number of positive default boxes of the batch; without any, the loss is 0. L_conf is the softmax
    loss over K + 1 classes of the positives and of the hardest negatives of each image, `ratio` for each
    positive; L_loc is smooth L1 over the positives' four deltas.

    Args:
        class_logits: (N, A, K + 1), background first. deltas: (N, A, 4).
        labels: (N, A) int64: the class + 1 of a positive, 0 for background, -1 for what is ignored.
        wanted_deltas: (p, 4), of the positives in their order in `labels`.
        ratio: negatives for each positive. balance: alpha.

    Returns:
        {"class", "box"}, scalars.
    """
    positive = labels > 0
    each = functional.cross_entropy(
        class_logits.float().transpose(1, 2), labels.clamp(min=0), reduction="none"
    )
    chosen = positive | hardest_negatives(each, positive, labels == 0, ratio)
    n = positive.sum().clamp(min=1)
    boxes = smooth_l1(deltas[positive].float() - wanted_deltas.float()).sum()
    return {"class": each[chosen].sum() / n, "box": balance * boxes / n}
