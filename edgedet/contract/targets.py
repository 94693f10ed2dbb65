"""What a model is trained on: made by `edgedet.data`, read by `edgedet.models`."""

from __future__ import annotations

from dataclasses import dataclass

from edgedet.contract.boxes import Array


@dataclass(frozen=True)
class Targets:
    """What a model is trained on, in torch tensors: one image's boxes, or the class of each of its pixels.

    boxes (n, 4) xyxy in network pixels; labels (n,) int64; ignore (n,) bool marks objects that are
    neither to be found nor to be punished (VOC's "difficult", COCO's crowds). class_map (H, W) uint8 at
    the network's input size, 255 = void: not trained on; masks (n, H, W) bool at the network's input size,
    one for each box; both None where the data has none, or the task does not ask for them. proposals (P, 4)
    xyxy in network pixels: as many rows as the model takes, those without one 0, 0, 0, 0; None where the
    model takes none.
    """

    boxes: Array
    labels: Array
    ignore: Array
    class_map: Array | None = None
    masks: Array | None = None
    proposals: Array | None = None
