"""The heads of two-stage detectors, and what each of their stages is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedet.contract.boxes import area, encode_deltas
from edgedet.contract.errors import DataError
from edgedet.contract.spec import Output
from edgedet.contract.targets import Targets
from edgedet.models.detection_loss import region_loss, rpn_loss
from edgedet.models.matching import BACKGROUND, IGNORED, match
from edgedet.models.sampling import balanced

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Of the deltas of regions: proposals are near, so what they lack is small (Girshick 2015, 2.3)."""


class RpnHead(nn.Module):
    """Objectness and deltas of each anchor, by the same weights on every level (Ren et al. 2016, 3.1).

    Args:
        width: channels of the features and of the 3x3 convolution. shapes: k, anchors of a position.
    """

    def __init__(self, width: int, shapes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU6(inplace=True))
        self.objectness = nn.Conv2d(width, shapes, 1)
        self.deltas = nn.Conv2d(width, 4 * shapes, 1)
        _calm(self, 0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level (N, C, h, w) -> logits (N, h w k), deltas (N, h w k, 4), shapes innermost."""
        logits, deltas = [], []
        for level in levels:
            seen = self.conv(level)
            n = level.shape[0]  # free in an exported graph; `len` would fix it
            logits.append(self.objectness(seen).permute(0, 2, 3, 1).reshape(n, -1))
            deltas.append(self.deltas(seen).permute(0, 2, 3, 1).reshape(n, -1, 4))
        return logits, deltas


class BoxHead(nn.Module):
    """What a region shows and how its box must change, for each class (Girshick 2015, 2.1).

    fc6 and fc7 are convolutions over a batch of regions, which is the same arithmetic as dense layers and is
    quantised as every convolution is.

    Args:
        inputs: channels of the regions' features. classes: K. hidden: of fc6 and fc7. bins: side of the
            regions' features.
    """

    def __init__(self, inputs: int, classes: int, *, hidden: int = 512, bins: int = 7) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(nn.Conv2d(inputs, hidden, bins), nn.ReLU6(inplace=True))
        self.fc7 = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.ReLU6(inplace=True))
        self.class_logits = nn.Conv2d(hidden, classes + 1, 1)
        self.deltas = nn.Conv2d(hidden, 4 * classes, 1)
        for layer in (self.fc6[0], self.fc7[0]):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        _calm(self.class_logits, 0.01)
        _calm(self.deltas, 0.001)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(N, P, C, bins, bins) -> class logits (N, P, K + 1), background first, and deltas (N, P, 4 K)."""
        n, count = regions.shape[:2]
        x = self.fc7(self.fc6(regions.reshape(n * count, *regions.shape[2:])))  # (N P, hidden, 1, 1)
        return self.class_logits(x).reshape(n, count, -1), self.deltas(x).reshape(n, count, -1)


def region_outputs(count: int, classes: int) -> tuple[Output, ...]:
    """What `contract.decode.regions` reads, of `count` regions of an image, for the spec."""
    return (
        Output("proposals", "proposals", (None, count, 4)),
        Output("objectness", "objectness", (None, count)),
        Output("class_logits", "class_logits", (None, count, classes + 1)),
        Output("deltas", "deltas", (None, count, 4 * classes)),
    )


def _calm(module: nn.Module, std: float) -> None:
    """Start from small weights, as the papers do."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def rpn_training_loss(
    logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Sequence[Targets], *, sampled: int = 256
) -> dict[str, Tensor]:
    """The lecture's targets and loss of the RPN (Ren et al. 2016, 3.1.2 and 3.1.3).

    An anchor is an object if its IoU with one is above 0.7 or no other anchor's is higher, background below
    0.3 with all; of each image 256 are sampled, at most half of them objects.

    Args:
        logits: (N, A). deltas: (N, A, 4). anchors: (A, 4) in pixels.

    Returns:
        {"rpn_class", "rpn_box"}, scalars.
    """
    scores, wanted, moved, truth = [], [], [], []
    for i, target in enumerate(targets):
        boxes = target.boxes.to(anchors)
        found = match(anchors, boxes, target.ignore, high=0.7, low=0.3, best_for_each=True)
        positive, negative = balanced(found, sampled, 0.5)
        chosen = torch.cat([positive, negative])
        scores.append(logits[i, chosen])
        wanted.append((torch.arange(len(chosen), device=chosen.device) < len(positive)).float())
        moved.append(deltas[i, positive])
        truth.append(encode_deltas(boxes[found[positive]], anchors[positive]))
    return rpn_loss(
        torch.cat(scores), torch.cat(wanted), torch.cat(moved), torch.cat(truth), len(targets), n_cls=sampled
    )


@dataclass(frozen=True)
class Regions:
    """Sampled regions of a batch: boxes (N, R, 4) in pixels, labels (N, R) int64 (the class + 1, 0 for
    background, -1 for a row that is not used), truth (N, R, 4): the object's box, where there is one.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor
    objects: Tensor
    """(N, R) int64: which of the image's objects a region shows, -1 for none."""

    def loss(self, class_logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        """{"class", "box"} of the head's (N, R, K + 1) and (N, R, 4 K): `detection_loss.region_loss`."""
        used = self.labels >= 0
        boxes, truth, labels = self.boxes[used], self.truth[used], self.labels[used]
        wanted = torch.zeros_like(boxes)
        some = labels > 0
        wanted[some] = encode_deltas(truth[some], boxes[some], VARIANCES)
        return region_loss(class_logits[used], deltas[used], labels, wanted)


def proposals_of(targets: Sequence[Targets], like: Tensor) -> Tensor:
    """(N, P, 4) xyxy in network pixels: `Targets.proposals`, on the device of `like`.

    Raises:
        DataError: a target without.
    """
    rows = [torch.as_tensor(t.proposals) for t in targets if t.proposals is not None]
    if len(rows) < len(targets):
        raise DataError(
            f"{len(targets) - len(rows)} of {len(targets)} images come without proposals, from which this"
            " model learns.",
            hint="Load them with a proposer: `edgedet.training.batches.Samples(proposer=...)`.",
        )
    return torch.stack(rows).to(like.device, torch.float32)


@torch.no_grad()
def label_regions(boxes: Tensor, targets: Sequence[Targets], *, overlap: float = 0.5) -> Regions:
    """What each region shows: the object that it overlaps most, if by an IoU of `overlap` or more, else
    background (Girshick 2015, 2.3).

    Args:
        boxes: (N, R, 4) in pixels; empty boxes are no regions.
    """
    truth = torch.zeros_like(boxes)
    labels = torch.full(boxes.shape[:2], -1, dtype=torch.int64, device=boxes.device)
    which = torch.full_like(labels, -1)
    for i, target in enumerate(targets):
        objects = target.boxes.to(boxes)
        found = match(boxes[i], objects, target.ignore, high=overlap, low=overlap, best_for_each=False)
        found[area(boxes[i]) <= 0] = IGNORED
        positive = found >= 0
        labels[i, found == BACKGROUND] = 0
        labels[i, positive] = target.labels.to(found.device)[found[positive]] + 1
        truth[i, positive] = objects[found[positive]]
        which[i, positive] = found[positive]
    return Regions(boxes, labels, truth, which)


@torch.no_grad()
def sample_regions(
    proposals: Tensor,
    targets: Sequence[Targets],
    *,
    sampled: int = 64,
    positive_share: float = 0.25,
    overlap: float = 0.5,
) -> Regions:
    """What the second stage is trained on: a sample of proposals and of the objects' own boxes.

    The objects' boxes are among them, as in the paper's implementation: at first the proposals hit few.

    Args:
        proposals: (N, P, 4) in pixels; empty boxes are none. sampled: R, of an image. positive_share: at
            most so much of them show objects. overlap: see `label_regions`.
    """
    most = max((len(t.boxes) for t in targets), default=0)
    own = proposals.new_zeros(len(proposals), most, 4)
    for i, target in enumerate(targets):
        objects = target.boxes.to(proposals)[~target.ignore.to(proposals.device)]
        own[i, : len(objects)] = objects
    all_ = label_regions(torch.cat([proposals, own], dim=1), targets, overlap=overlap)
    index = torch.zeros(len(proposals), sampled, dtype=torch.int64, device=proposals.device)
    used = torch.zeros_like(index, dtype=torch.bool)
    for i, labels in enumerate(all_.labels):
        chosen = torch.cat(balanced(labels - 1, sampled, positive_share))  # background is -1 there
        index[i, : len(chosen)], used[i, : len(chosen)] = chosen, True
    rows = index[..., None].expand(-1, -1, 4)
    return Regions(
        all_.boxes.gather(1, rows) * used[..., None],
        all_.labels.gather(1, index).where(used, -1),
        all_.truth.gather(1, rows),
        all_.objects.gather(1, index).where(used, -1),
    )
