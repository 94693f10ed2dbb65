"""Localisation of one object by regression (lecture, "Localisation of one object by regression").

One network, one box: four numbers (x0, y0, w, h) and K class scores for the whole image. It is trained on
images with exactly one object, by the L2 distance to the true four numbers and the cross entropy of the
class. On an image with several objects it says one box all the same; on one without, too.

Where this departs from the lecture, and why:

- Backbone and neck are those of `edgedet.models.yolo`, under the same names, so that its weights fit.
- What the fully connected layer on the last features does there, a pooling with learned weights does here:
  each position of the grid says where it takes the object to be, and how much its word counts (a softmax
  over positions); the box is the weighted mean. A position speaks relative to its own place, so that an
  object that moves moves its box, and the network takes any input size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgedet.contract import decode as decoders
from edgedet.contract.spec import Decode, Output
from edgedet.contract.targets import Targets
from edgedet.models.backbones import Backbone
from edgedet.models.base import Model
from edgedet.models.layers import conv_norm_act


class Localizer(Model):
    """Backbone, neck, and a head pooled to one box and one set of class logits.

    Args:
        classes: K.
        size: (height, width) the network is trained at: the box is learned in its fractions.
        width: channels of the head.
        box_weight: of the L2 distance beside the cross entropy.
        pretrained: start from ImageNet weights.
    """

    stride = 32
    cell = 16
    """Side of a position of the grid in network pixels."""

    def __init__(
        self,
        classes: int,
        *,
        size: Sequence[int] = (320, 320),
        width: int = 192,
        box_weight: float = 10.0,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.size = (size[0], size[1])
        self.box_weight = box_weight
        self.backbone = Backbone(
            (16, 32), pretrained=pretrained, frozen_norms=frozen_norms, frozen_stages=frozen_stages
        )
        fine, coarse = self.backbone.channels
        self.fine = conv_norm_act(fine, width // 2, 1)
        self.coarse = conv_norm_act(coarse, width // 2, 1)
        self.head = nn.Sequential(
            conv_norm_act(width, width, 3),
            conv_norm_act(width, width, 5, groups=width),
            conv_norm_act(width, width, 1),
            nn.Conv2d(width, 5 + classes, 1),
        )
        self._initialise()

    def _initialise(self) -> None:
        """Start with every position's word counting the same, for a box of half the image in its middle."""
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        with torch.no_grad():
            last.bias.zero_()
            last.bias[1:5] = torch.tensor([-0.25, -0.25, 0.5, 0.5])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised, H and W multiples of 32 -> the one object.

        {"box": (N, 1, 4) x0, y0, w, h in network pixels; "class_logits": (N, 1, K)}.
        """
        fine, coarse = self.backbone(images)
        wide = nn.functional.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        grid = self.head(torch.cat([self.fine(fine), wide], dim=1))  # (N, 5 + K, S, S)
        places = self._places(grid)  # (S*S, 4)
        said = grid.flatten(2).transpose(1, 2)  # (N, S*S, 5 + K)
        counts = torch.softmax(said[..., :1], dim=1).transpose(1, 2)  # (N, 1, S*S)
        boxes = counts @ (said[..., 1:5] * self._side(said) + places)
        return {"box": boxes, "class_logits": counts @ said[..., 5:]}

    def _side(self, like: Tensor) -> Tensor:
        """(4,): width and height of the training size, twice: what x0, y0, w, h are fractions of."""
        return like.new_tensor([self.size[1], self.size[0]] * 2)

    def _places(self, grid: Tensor) -> Tensor:
        """(S*S, 4): x and y of the middle of each position in network pixels, then 0, 0; row by row."""
        rows, cols = grid.shape[-2:]
        y = ((torch.arange(rows, dtype=grid.dtype, device=grid.device) + 0.5) * self.cell)[:, None]
        x = ((torch.arange(cols, dtype=grid.dtype, device=grid.device) + 0.5) * self.cell)[None, :]
        x, y = x.expand(rows, cols), y.expand(rows, cols)
        return torch.stack([x, y, torch.zeros_like(x), torch.zeros_like(x)], dim=-1).reshape(-1, 4)

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Over the images with exactly one object, and that one to be found: means over their number.

        "box": `box_weight` x the squared L2 distance of (x0, y0, w, h) in fractions of the training size
        (lecture, "Localisation of one object by regression"); "class": cross entropy. 0 where no image is
        such.
        """
        boxes, logits = heads["box"].float()[:, 0], heads["class_logits"].float()[:, 0]
        alone = [i for i, t in enumerate(targets) if len(t.boxes) == 1 and not bool(t.ignore[0])]
        if not alone:
            return {"box": 0 * boxes.sum(), "class": 0 * logits.sum()}
        corners = torch.cat([targets[i].boxes for i in alone]).to(boxes)
        truth = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        labels = torch.cat([targets[i].labels for i in alone]).to(boxes.device)
        distance = ((boxes[alone] - truth) / self._side(boxes)).square().sum(dim=1).mean()
        return {
            "box": self.box_weight * distance,
            "class": nn.functional.cross_entropy(logits[alone], labels),
        }

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Heads -> boxes (N, 1, 4) in network pixels, scores (N, 1, K): `contract.decode.localisation`."""
        by_role = {"boxes": heads["box"], "class_logits": heads["class_logits"]}
        boxes, scores = decoders.localisation(by_role, size)
        return {"boxes": boxes, "scores": scores}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """One box, one set of class logits. What `decode` gives is called "boxes", so the head is not."""
        return (
            Output("box", "boxes", (None, 1, 4)),
            Output("class_logits", "class_logits", (None, 1, self.classes)),
        )

    def decode_spec(self) -> Decode:
        """`edgedet.contract.decode.localisation`."""
        return Decode("localisation")
