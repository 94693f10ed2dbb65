"""Mask R-CNN of the lecture: Faster R-CNN with a third head, a mask for each region (He et al. 2017,
arXiv:1703.06870).

The mask head is a small FCN over RoIAlign's 14 x 14 features: four convolutions, a transposed one to 28 x 28,
and K masks, one for each class; the class branch says which of them counts. L = L_cls + L_box + L_mask, where
L_mask is the mean binary cross entropy per pixel of the true class's mask: classes do not compete.

While it trains, masks are learned on the regions that show an object. In use the head runs after NMS, on the
boxes that are kept (section 3.1, "Inference"): it is a second graph, which takes the pyramid's levels from
the first one.

Where this departs from the paper: what `faster_rcnn` says, and `width` channels instead of 256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedet.contract.errors import DataError
from edgedet.contract.spec import Output, Stage
from edgedet.contract.spec import Tensor as Described
from edgedet.contract.targets import Targets
from edgedet.models.faster_rcnn import CANONICAL, FasterRcnn
from edgedet.models.region_heads import Regions
from edgedet.models.regions import pyramid_align, roi_align

BINS = 14
"""Side of the features that the head sees; its masks are twice as large."""

ROWS = 16
"""Boxes that the second graph takes at once: most frames need one run of it."""

STAGE = "masks"


class MaskRcnn(FasterRcnn):
    """Faster R-CNN and a mask head. See the module's docstring.

    Args:
        classes: K. All others as `FasterRcnn`'s.
    """

    def __init__(
        self,
        classes: int,
        *,
        neck: str = "fpn",
        width: int = 128,
        hidden: int = 512,
        proposals: int = 128,
        sampled: int = 64,
        pretrained: bool = True,
        frozen_norms: bool = True,
        frozen_stages: int = 2,
    ) -> None:
        super().__init__(
            classes,
            neck=neck,
            width=width,
            hidden=hidden,
            proposals=proposals,
            sampled=sampled,
            pretrained=pretrained,
            frozen_norms=frozen_norms,
            frozen_stages=frozen_stages,
        )
        self.width = width
        self.mask_head = MaskHead(width, classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As `FasterRcnn.forward`, and the levels that the mask head looks at: level0, level1, ..."""
        levels = self.neck(self.backbone(images))
        return self.heads(levels, (images.shape[2], images.shape[3])) | self._levels(levels)

    def _levels(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"level{i}": level for i, level in enumerate(levels[: self.seen])}

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, *, operators: bool) -> Tensor:
        """Levels (N, C, H / stride, W / stride), boxes (N, R, 4) in pixels -> logits (N, R, K, 28, 28)."""
        seen = list(levels[: self.seen])
        strides = self.strides[: self.seen]
        regions = pyramid_align(seen, strides, boxes, canonical=CANONICAL, bins=BINS, operators=operators)
        n, count = boxes.shape[:2]
        found: Tensor = self.mask_head(regions.reshape(n * count, *regions.shape[2:]))
        return found.reshape(n, count, *found.shape[1:])

    def more_losses(
        self, levels: Sequence[Tensor], regions: Regions, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """{"mask"}: on the sampled regions that show an object.

        Raises:
            DataError: the data has no instance masks.
        """
        masks = [t.masks for t in targets if t.masks is not None]
        if len(masks) < len(targets):
            raise DataError(
                "Mask R-CNN learns from instance masks, and the data set has none.",
                hint="Give data with a mask for each object: coco:PATH, for example.",
            )
        # the same number of regions for each image, those with objects first
        order = (regions.labels > 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)
        most = max(1, int((regions.labels > 0).sum(dim=1).max()))
        chosen = order[:, :most]
        boxes = regions.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
        logits = self.masks(levels, boxes, operators=False)
        with torch.autocast(logits.device.type, enabled=False):
            labels, objects = regions.labels.gather(1, chosen), regions.objects.gather(1, chosen)
            wanted = [
                mask_targets(m.to(boxes.device), b, o, logits.shape[-1])
                for m, b, o in zip(masks, boxes, objects, strict=True)
            ]
            return {"mask": mask_loss(logits.float(), labels, torch.stack(wanted))}

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """Of `FasterRcnn`, and the levels."""
        return (*super().outputs(size), *(Output(t.name, t.role, t.shape) for t in self._described(size)))

    def _described(self, size: tuple[int, int]) -> tuple[Described, ...]:
        return tuple(
            Described(f"level{i}", "features", (None, self.width, size[0] // s, size[1] // s))
            for i, s in enumerate(self.strides[: self.seen])
        )

    def stages(self, size: tuple[int, int]) -> tuple[Stage, ...]:
        """The mask head, for `ROWS` boxes at once."""
        side = 2 * BINS
        kept = Described("kept", "boxes", (None, ROWS, 4))
        logits = Described("mask_logits", "masks", (None, ROWS, self.classes, side, side))
        return (Stage(STAGE, f"mask-rcnn-{STAGE}.onnx", (*self._described(size), kept), (logits,)),)

    def run_stage(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Model: the levels and `kept` boxes -> mask_logits."""
        levels = [tensors[f"level{i}"] for i in range(self.seen)]
        return {"mask_logits": self.masks(levels, tensors["kept"], operators=self.operators)}


class MaskHead(nn.Module):
    """Four convolutions, a transposed one, and a mask for each class (He et al. 2017, figure 4, right).

    Args:
        inputs: channels of the regions' features, and of all layers. classes: K.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(inputs, inputs, 3, padding=1), nn.ReLU6(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.up = nn.Sequential(nn.ConvTranspose2d(inputs, inputs, 2, stride=2), nn.ReLU6(inplace=True))
        self.mask_logits = nn.Conv2d(inputs, classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.bias is not None
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """(R, C, m, m) -> logits (R, K, 2 m, 2 m)."""
        found: Tensor = self.mask_logits(self.up(self.convs(regions)))
        return found


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """The part of each region's object that lies in the region, `side` x `side` cells (section 3.1).

    A cell is of the object if at least half of it is, sampled by RoIAlign: nothing is rounded, nothing moves
    by half a pixel.

    Args:
        masks: (n, H, W) bool, of the objects. boxes: (R, 4) in pixels. objects: (R,) index, -1 for none.

    Returns:
        (R, side, side) float, 0 or 1; 0 where there is no object.
    """
    some = objects >= 0
    out = boxes.new_zeros(len(boxes), side, side, dtype=torch.float32)
    if bool(some.any()):
        whole = masks[objects[some]][:, None].float()  # (r, 1, H, W): each region its own picture
        cut = roi_align(whole, boxes[some][:, None].float(), 1.0, bins=side, samples=2, operators=True)
        out[some] = (cut[:, 0, 0] >= 0.5).float()
    return out


def mask_loss(logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """L_mask: mean binary cross entropy per pixel, of the true class's mask alone (section 3; lecture).

    Args:
        logits: (N, R, K, m, m). labels: (N, R), the class + 1; others have no mask. wanted: (N, R, m, m).

    Returns:
        A scalar; 0, with gradients of 0, where no region shows an object.
    """
    some = labels > 0
    if not bool(some.any()):
        return logits.sum() * 0
    own = logits[some]  # (r, K, m, m)
    own = own[torch.arange(len(own), device=own.device), labels[some] - 1]
    return functional.binary_cross_entropy_with_logits(own, wanted[some])
