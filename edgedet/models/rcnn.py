"""R-CNN of the lecture: a network looks at every proposed region by itself (Girshick et al. 2014,
arXiv:1311.2524).

Regions are proposed from outside (Selective Search). Each is cut from the image with some context, warped to
one size and passed through a convolutional network; of its features one linear SVM a class says whether the
region shows that class, and one linear regression a class corrects its box. All of it is one graph: the
crops are cut in it, and SVMs and regression are its last layers.

Training has four stages. The network is fine-tuned by a softmax over K + 1 classes (`training_loss`); then
`edgedet.training.rcnn` takes the features of all regions, trains the SVMs and solves the regression.

Where this departs from the paper, and why:

- EfficientNet-Lite0 on crops of 112 x 112 pixels instead of AlexNet on 227 x 227: images of 320 pixels have
  no more to show, and a crop costs 1/4.
- Features are `width` channels of the last 4 x 4 cells, where the paper has fc7 for the SVMs and pool5 for
  the regression: one layer that keeps the places serves both.
- 300 regions of an image instead of 2000: at 320 pixels Selective Search finds about 740.
- A region is positive for an SVM from an IoU of 0.3 on (the lecture; the paper takes the objects' own boxes
  alone: svm_positive=1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedet.contract import decode as decoders
from edgedet.contract.boxes import area, clip, encode_deltas
from edgedet.contract.spec import Decode, Output, Proposals
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.base import Model
from edgedet.models.crops import crops
from edgedet.models.layers import conv_norm_act
from edgedet.models.matching import BACKGROUND, match
from edgedet.models.region_heads import proposals_of, sample_regions


class Rcnn(Model):
    """Crops, backbone, SVMs and regression. See the module's docstring.

    Args:
        classes: K.
        proposals: regions of an image.
        rows: regions that one run of the graph takes, so that memory does not grow with `proposals`.
        side: of a crop in pixels.
        width: channels of the features.
        sampled: regions of an image that a step of fine-tuning sees, 1/4 of them objects.
        svm_positive, svm_negative: least IoU of a region that is an SVM's positive, and below which it is a
            negative. Lecture: 0.3 and 0.3; paper: 1 and 0.3.
        box_overlap: least IoU of the pairs that the regression learns from.
        pretrained: start from ImageNet weights.

    Raises:
        ValueError: numbers that cannot be meant.
    """

    stride = 1

    def __init__(
        self,
        classes: int,
        *,
        proposals: int = 300,
        rows: int = 50,
        side: int = 112,
        width: int = 64,
        sampled: int = 8,
        svm_positive: float = 0.3,
        svm_negative: float = 0.3,
        box_overlap: float = 0.6,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < rows <= proposals or proposals % rows:
            raise ValueError(f"{proposals} proposals cannot be looked at {rows} at once")
        if not 0 < svm_negative <= svm_positive <= 1 or not 0 < box_overlap <= 1:
            raise ValueError(
                f"svm_positive {svm_positive}, svm_negative {svm_negative} and box_overlap {box_overlap},"
                " expected 0 < svm_negative <= svm_positive <= 1 and 0 < box_overlap <= 1"
            )
        self.classes = classes
        self.count, self.rows, self.side, self.sampled = proposals, rows, side, sampled
        self.svm_positive, self.svm_negative, self.box_overlap = svm_positive, svm_negative, box_overlap
        self.backbone = Backbone(
            (32,), pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        self.project = conv_norm_act(self.backbone.channels[0], width, 1)
        self.cells = -(-side // 32)
        self.dimensions = width * self.cells**2
        """Of a region's features."""
        # dense layers on all cells, written as convolutions: quantised as every convolution is
        self.class_logits = nn.Conv2d(width, classes + 1, self.cells)
        self.svm = nn.Conv2d(width, classes, self.cells)
        self.deltas = nn.Conv2d(width, 4 * classes, self.cells)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        for layer in (self.class_logits, self.svm, self.deltas):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        for layer in (self.svm, self.deltas):  # they are computed, not trained by gradients
            nn.init.zeros_(layer.weight)
            layer.requires_grad_(False)

    def forward(self, images: Tensor, proposals: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """(N, 3, H, W) normalised and (N, R, 4) xyxy in pixels -> those proposals cut to the image,
        objectness (N, R), 1 where a row holds one and 0 elsewhere, margins (N, R, K), deltas (N, R, 4 K).
        """
        n, count = proposals.shape[:2]
        boxes = clip(proposals, images.shape[3], images.shape[2])
        seen = self.features(images, boxes, operators=self.operators)
        return {
            "proposals": boxes,
            "objectness": (area(boxes) > 0).to(boxes.dtype),
            "margins": self.svm(seen).reshape(n, count, -1),
            "deltas": self.deltas(seen).reshape(n, count, -1),
        }

    def features(self, images: Tensor, boxes: Tensor, *, operators: bool) -> Tensor:
        """Of each region of (N, 3, H, W) and (N, R, 4): (N * R, width, cells, cells), 0 to 6."""
        x: Tensor = self.project(self.backbone(crops(images, boxes, self.side, operators=operators))[0])
        return x

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Fine-tuning: {"class"}, the softmax loss of K + 1 classes, the mean over sampled regions.

        A region shows the object that it overlaps most by an IoU of 0.5 or more, else background; 1/4 of
        them show objects (Girshick et al. 2014, 2.3).
        """
        boxes = clip(proposals_of(targets, images), images.shape[3], images.shape[2])
        regions = sample_regions(boxes, targets, sampled=self.sampled)
        logits = self.class_logits(self.features(images, regions.boxes, operators=True)).flatten(1)
        labels = regions.labels.flatten()
        with torch.autocast(images.device.type, enabled=False):
            each = functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
            return {"class": each / (labels >= 0).sum().clamp(min=1)}

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """What the SVMs and the regression minimise beside the size of their weights.

        {"svm": the hinge max(0, 1 - y m), summed over classes, the mean over regions; "box": squared
        distance of the deltas, the mean over pairs of a region and its object}; see `of_class`.
        """
        margins, deltas = heads["margins"].float(), heads["deltas"].float()
        hinge, distance, regions, pairs = margins.sum() * 0, deltas.sum() * 0, 0, 0
        own = deltas.reshape(*deltas.shape[:2], self.classes, 4)
        for i, target in enumerate(targets):
            there = torch.nonzero(area(heads["proposals"][i]) > 0).flatten()
            boxes = heads["proposals"][i, there]
            regions += len(there)
            for k in range(self.classes):
                objects, found = self.of_class(boxes, target, k, self.svm_positive, self.svm_negative)
                m = margins[i, there, k]
                hinge = hinge + functional.relu(1 - m[found >= 0]).sum()
                hinge = hinge + functional.relu(1 + m[found == BACKGROUND]).sum()
                objects, found = self.of_class(boxes, target, k, self.box_overlap, self.box_overlap)
                near = found >= 0
                wanted = encode_deltas(objects[found[near]], boxes[near])
                distance = distance + (own[i, there[near], k] - wanted).square().sum()
                pairs += int(near.sum())
        return {"svm": hinge / max(1, regions), "box": distance / max(1, pairs)}

    @staticmethod
    def of_class(boxes: Tensor, target: Targets, k: int, high: float, low: float) -> tuple[Tensor, Tensor]:
        """The objects of class k (m, 4), and which of them each of the boxes (n, 4) is for: `matching.match`.

        An SVM tells its class from all else, so objects of other classes are background.
        """
        mine = target.labels == k
        objects = target.boxes[mine].to(boxes)
        return objects, match(boxes, objects, target.ignore[mine], high=high, low=low, best_for_each=False)

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Heads -> boxes (N, R, K, 4) in network pixels, scores (N, R, K): see `contract.decode.regions`."""
        boxes, scores = decoders.regions(heads, size)
        return {"boxes": boxes, "scores": scores}

    def proposals(self) -> Proposals:
        """Selective Search's best."""
        return Proposals("selective_search", self.count, rows=self.rows)

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """A row for each region of one run."""
        r = self.rows
        return (
            Output("proposals", "proposals", (None, r, 4)),
            Output("objectness", "objectness", (None, r)),
            Output("margins", "margins", (None, r, self.classes)),
            Output("deltas", "deltas", (None, r, 4 * self.classes)),
        )

    def decode_spec(self) -> Decode:
        """`edgedet.contract.decode.regions`."""
        return Decode("regions")
