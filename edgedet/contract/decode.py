"""From the raw values of a network's heads to what they mean, one definition per kind of head.

A decoder takes the head tensors of a batch (numpy or torch, by role) and the network's input size. Those
of DECODERS give dense boxes (N, A, 4) in network-input pixels, or (N, A, K, 4) where each class has a box of
its own, and scores (N, A, K) in [0, 1], before any threshold or NMS; those of MAP_DECODERS give a class per
pixel of the network input.

The same function serves the loss-free torch evaluation, the exported ONNX graph (where it is traced and
stays outside Q/DQ), the numpy postprocessing of engines that end at the heads, and is the reference of
the CUDA kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgedet.contract.anchors import Shapes, count, make_anchors
from edgedet.contract.boxes import Array, apply_deltas, clip, from_centre, namespace, sigmoid, softmax


def yolo(
    heads: Mapping[str, Array],
    size: tuple[int, int],
    *,
    boxes_per_cell: int,
    side: Sequence[int] | None = None,
) -> tuple[Array, Array]:
    """The grid of YOLO v1 (Redmon et al. 2015, section 2; lecture, "YOLO").

    `heads["grid"]` is (N, 5B + K, Sy, Sx): for each of B boxes x, y, sqrt w, sqrt h as they are (the
    paper's last layer is linear, section 2.2) and the logit of the confidence, then K class logits shared
    by the cell. x and y are offsets in the cell, in cells; w and h fractions of `side`. The score of class
    k is confidence x Pr(class k | object), as at the paper's test time (equation 1).

    Args:
        heads: {"grid": (N, 5B + K, Sy, Sx)}, float.
        size: (height, width) of the network input in pixels.
        boxes_per_cell: B.
        side: (height, width) in pixels that h and w are fractions of: the size the network was trained
            at, where that is the whole image, as in the paper. A convolutional network sees pixels, not
            fractions, so at another size boxes stay right only against this fixed side. None: `size`.

    Returns:
        boxes (N, Sy*Sx*B, 4) xyxy in network pixels, not clipped; scores (N, Sy*Sx*B, K).

    Raises:
        ValueError: `side` is not two positive numbers.
    """
    if side is not None and not (len(side) == 2 and all(type(v) in (int, float) and v > 0 for v in side)):
        raise ValueError(f"side {side!r}, expected height and width")
    grid = heads["grid"]
    xp = namespace(grid)
    n, channels, rows, cols = grid.shape
    b = boxes_per_cell
    classes = channels - 5 * b
    height, width = size

    # (N, 5B+K, Sy, Sx) -> (N, Sy*Sx, 5B+K): cells row by row
    cells = grid.transpose(0, 2, 3, 1) if xp is np else grid.permute(0, 2, 3, 1)
    cells = cells.reshape(n, rows * cols, channels)
    box = cells[..., : 5 * b].reshape(n, rows * cols, b, 5)
    whole = (width, height) if side is None else (side[1], side[0])

    # side by side, not point by point: numpy is slow along an axis of two
    edges = []
    for axis, origin in enumerate(_cell_origins(grid, rows, cols)):  # (Sy*Sx, 1)
        centre = (box[..., axis] + origin) * (size[1 - axis] / (cols, rows)[axis])
        half = box[..., 2 + axis] * box[..., 2 + axis] * (0.5 * whole[axis])
        edges.append((centre - half, centre + half))
    (x0, x1), (y0, y1) = edges
    boxes = xp.stack([x0, y0, x1, y1], -1).reshape(n, rows * cols * b, 4)

    probability = softmax(cells[..., 5 * b :], -1).reshape(n, rows * cols, 1, classes)
    scores = (sigmoid(box[..., 4:5]) * probability).reshape(n, rows * cols * b, classes)
    return boxes, scores


def dense(
    heads: Mapping[str, Array],
    size: tuple[int, int],
    *,
    format: str = "xyxy",
    unit: str = "pixels",
    background: int | None = None,
) -> tuple[Array, Array]:
    """A graph that has decoded its heads itself: boxes and scores that only have to be brought into form.

    Args:
        heads: {"boxes": (N, A, 4), or (N, A, K, 4), "scores": (N, A, K) in [0, 1]}; with "objectness"
            (N, A, 1) or (N, A) in [0, 1], a score is the class's times that (Redmon et al. 2015, equation 1).
        size: (height, width) of the network input in pixels.
        format: of a box: "xyxy" (corners), "xywh" (upper left corner and size), "cxcywh" (centre and size).
        unit: of its numbers: "pixels" of the network input, or "fraction" of its sides.
        background: the class of `scores` that says "nothing there", which is dropped; None if there is none.

    Returns:
        As `yolo`.

    Raises:
        ValueError: no such format or unit, or no such background class.
    """
    boxes, scores = heads["boxes"], heads["scores"]
    if format not in _BOX_FORMATS or unit not in ("pixels", "fraction"):
        raise ValueError(
            f"format {format!r} and unit {unit!r}, expected {', '.join(_BOX_FORMATS)}, and pixels or fraction"
        )
    xp = namespace(boxes)
    if unit == "fraction":
        height, width = size
        boxes = boxes * _constant(boxes, [width, height, width, height])
    if format == "cxcywh":
        boxes = from_centre(boxes)
    elif format == "xywh":
        boxes = xp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)
    if "objectness" in heads:
        scores = scores * heads["objectness"].reshape(*boxes.shape[:2], 1)
    if background is not None:
        classes = scores.shape[-1]
        if type(background) is not int or not 0 <= background < classes:
            raise ValueError(f"background {background!r}, expected 0 to {classes - 1}")
        scores = xp.concatenate([scores[..., :background], scores[..., background + 1 :]], axis=-1)
    return boxes, scores


_BOX_FORMATS = ("xyxy", "xywh", "cxcywh")


def localisation(heads: Mapping[str, Array], size: tuple[int, int]) -> tuple[Array, Array]:
    """One box an image, by regression (lecture, "Localisation of one object by regression").

    Args:
        heads: {"boxes": (N, 1, 4) x0, y0, w, h in network pixels, "class_logits": (N, 1, K)}. A side below 0,
            which a regression may give, is none.
        size: (height, width) of the network input in pixels.

    Returns:
        boxes (N, 1, 4) xyxy in network pixels, not clipped; scores (N, 1, K), which sum to 1.
    """
    boxes = heads["boxes"]
    corner = boxes[..., :2]
    opposite = corner + boxes[..., 2:].clip(min=0)
    return namespace(boxes).concatenate([corner, opposite], axis=-1), softmax(heads["class_logits"], -1)


def anchors(
    heads: Mapping[str, Array],
    size: tuple[int, int],
    *,
    strides: Sequence[int],
    shapes: Sequence[Shapes],
    variances: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Array, Array]:
    """A dense head that corrects anchors (Liu et al. 2016, 2.2; lecture, "SSD").

    A box is its anchor with the deltas applied (`boxes.apply_deltas`); scores are the softmax over K + 1
    classes without the first, the background.

    Args:
        heads: {"class_logits": (N, A, K + 1), "deltas": (N, A, 4)}, a row for each anchor of
            `anchors.make_anchors`.
        size: (height, width) of the network input in pixels.
        strides: of each level. shapes: (width, height) in pixels of each level's anchors.
        variances: what dx, dy, dw, dh are multiplied by.

    Returns:
        As `yolo`.

    Raises:
        ValueError: parameters that describe no anchors, or another number of them than the heads have rows.
    """
    if not strides or not all(type(s) is int and s > 0 for s in strides) or len(shapes) != len(strides):
        raise ValueError(f"strides {strides!r:.80} and {len(shapes)} levels of shapes, expected one for each")
    if not all(level and all(_positive(shape, 2) for shape in level) for level in shapes):
        raise ValueError(f"shapes {shapes!r:.80}, expected widths and heights for each level")
    if not _positive(variances, 4):
        raise ValueError(f"variances {variances!r:.80}, expected four positive numbers")
    logits, deltas = heads["class_logits"], heads["deltas"]
    expected = count(size, strides, shapes)
    if tuple(deltas.shape[1:]) != (expected, 4) or tuple(logits.shape[1:-1]) != (expected,):
        raise ValueError(
            f"class logits {tuple(logits.shape)} and deltas {tuple(deltas.shape)} for {expected} anchors"
        )
    made = _as(deltas, make_anchors(size, strides, shapes))
    boxes = apply_deltas(deltas, made, variances)
    return boxes, softmax(logits, -1)[..., 1:]


def regions(
    heads: Mapping[str, Array],
    size: tuple[int, int],
    *,
    variances: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Array, Array]:
    """Regions that were looked at one by one: a box of its own for each class of a region.

    Scores are the softmax over K + 1 classes without the first, the background (Girshick 2015, 2.1; lecture,
    "Fast R-CNN" and "Faster R-CNN"), or the sigmoid of the margins of K linear SVMs, 0.5 on the plane that
    separates a class from all else (Girshick et al. 2014, 2.2; lecture, "R-CNN"); and 0 where there was no
    proposal.

    Args:
        heads: {"proposals": (N, P, 4) xyxy in network pixels, "class_logits": (N, P, K + 1) or "margins":
            (N, P, K), "deltas": (N, P, 4 K), four for each class, "objectness": (N, P), 0 where a row is no
            proposal}.
        size: (height, width) of the network input in pixels.
        variances: what dx, dy, dw, dh are multiplied by.

    Returns:
        boxes (N, P, K, 4) xyxy in network pixels, cut to the image; scores (N, P, K).

    Raises:
        ValueError: variances that are no four positive numbers, or heads whose shapes do not fit each other.
    """
    if not _positive(variances, 4):
        raise ValueError(f"variances {variances!r:.80}, expected four positive numbers")
    proposals, deltas = heads["proposals"], heads["deltas"]
    svms = "margins" in heads
    scores = sigmoid(heads["margins"]) if svms else softmax(heads["class_logits"], -1)[..., 1:]
    n, count, classes = scores.shape
    if tuple(proposals.shape[1:]) != (count, 4) or tuple(deltas.shape[1:]) != (count, 4 * classes):
        raise ValueError(
            f"proposals {tuple(proposals.shape)}, scores {tuple(scores.shape)} and deltas"
            f" {tuple(deltas.shape)}, expected (N, P, 4), (N, P, K) and (N, P, 4 K)"
        )
    there = heads["objectness"].reshape(n, count, 1) > 0
    own = deltas.reshape(n, count, classes, 4)
    boxes = clip(apply_deltas(own, proposals[:, :, None], variances), size[1], size[0])
    return boxes, scores * there


def _positive(values: Sequence[float], n: int) -> bool:
    return len(values) == n and all(type(v) in (int, float) and v > 0 for v in values)


def class_map(heads: Mapping[str, Array], size: tuple[int, int]) -> Array:
    """The most likely class of every pixel (Long et al. 2015, section 4; lecture, "Semantic segmentation").

    Logits at a stride are first interpolated linearly to `size` (pixel centres at half coordinates), so
    that a boundary may lie between the pixels of the stride. One logit instead of K says class 1 of two
    where it is above 0, which is a sigmoid above 0.5. Ties go to the lower class.

    Args:
        heads: {"class_map": (N, h, w) integer}, a graph that took the argmax itself, as it is; or
            {"class_logits": (N, K, h, w) float}.
        size: (height, width) of the network input in pixels.

    Returns:
        (N, height, width) integer, indices into the classes.
    """
    if "class_map" in heads:
        return heads["class_map"]
    logits = _interpolated(heads["class_logits"], size)
    if logits.shape[1] == 1:
        return namespace(logits).where(logits[:, 0] > 0, 1, 0)
    return logits.argmax(1)


Decoder = Callable[..., tuple[Array, Array]]
MapDecoder = Callable[..., Array]

DECODERS: dict[str, Decoder] = {
    "yolo": yolo,
    "anchors": anchors,
    "regions": regions,
    "dense": dense,
    "localisation": localisation,
}
"""What `ModelSpec.decode.kind` may name, for tasks whose result is boxes."""

MAP_DECODERS: dict[str, MapDecoder] = {"class_map": class_map}
"""What it may name for tasks whose result is a class per pixel: the kinds of `spec.MAP_KINDS`."""


def _constant(like: Array, values: list[float]) -> Array:
    xp = namespace(like)
    if xp is np:
        return np.asarray(values, dtype=like.dtype)
    return xp.tensor(values, dtype=like.dtype, device=like.device)


def _cell_origins(like: Array, rows: int, cols: int) -> tuple[Array, Array]:
    """(rows*cols, 1) each: the column and the row of each cell, row by row, in `like`'s library and type."""
    x, y = _grid_numbers(int(rows), int(cols))  # a tracer's sizes are tensors
    return _as(like, x), _as(like, y)


@functools.cache
def _grid_numbers(rows: int, cols: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    cell = np.arange(rows * cols)[:, None]
    return (cell % cols).astype(np.float32), (cell // cols).astype(np.float32)


def _as(like: Array, values: npt.NDArray[np.float32]) -> Array:
    """A constant of the library, device and type of `like`."""
    xp = namespace(like)
    return values if xp is np else xp.from_numpy(values).to(device=like.device, dtype=like.dtype)


def _interpolated(maps: Array, size: tuple[int, int]) -> Array:
    """(N, K, h, w) -> (N, K, *size), linearly, pixel centres at half coordinates."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    xp = namespace(maps)
    if xp is not np:
        return xp.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    rows, cols = (_linear(n, wanted) for n, wanted in zip(maps.shape[2:], size, strict=True))
    return rows @ maps @ cols.T


def _linear(n: int, wanted: int) -> npt.NDArray[np.float32]:
    """(wanted, n): each row weighs the one or two of n samples beside its own half-pixel centre."""
    at = ((np.arange(wanted) + 0.5) * n / wanted - 0.5).clip(0, n - 1)
    below = np.floor(at).astype(int)
    weights = np.zeros((wanted, n), np.float32)
    row = np.arange(wanted)
    weights[row, below] = 1 - (at - below)
    weights[row, np.minimum(below + 1, n - 1)] += at - below
    return weights
