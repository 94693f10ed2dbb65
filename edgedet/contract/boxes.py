"""Box mathematics, one definition for numpy and torch.

A box is (x0, y0, x1, y1): float, x right and y down, in pixels unless said otherwise, with x1 and y1
exclusive, so that width = x1 - x0. Every function takes arrays of one library (numpy or torch, last
axis 4) and returns arrays of the same library; under torch they are traceable to plain ONNX operators.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A numpy array or a torch tensor; the two share no common base class."""

MAX_LOG_SCALE = math.log(1000 / 16)
"""A regression enlarges a side at most 62.5 times: an untrained or quantised one cannot overflow `exp`."""


def namespace(x: Array) -> ModuleType:
    """The library that `x` belongs to: `numpy` or `torch` (never imported from here)."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch
    return np


def sigmoid(x: Array) -> Array:
    """Logistic function, without overflow at any finite input."""
    xp = namespace(x)
    if xp is np:
        return 0.5 * (1.0 + np.tanh(0.5 * x))
    return xp.sigmoid(x)


def softmax(x: Array, axis: int) -> Array:
    """Softmax along `axis`, without overflow at any finite input."""
    xp = namespace(x)
    if xp is np:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)
    return xp.softmax(x, axis)


def from_centre(boxes: Array) -> Array:
    """(cx, cy, w, h) -> (x0, y0, x1, y1)."""
    xp = namespace(boxes)
    half = boxes[..., 2:] * 0.5
    return xp.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def to_centre(boxes: Array) -> Array:
    """(x0, y0, x1, y1) -> (cx, cy, w, h)."""
    xp = namespace(boxes)
    size = boxes[..., 2:] - boxes[..., :2]
    return xp.concatenate([boxes[..., :2] + size * 0.5, size], axis=-1)


def area(boxes: Array) -> Array:
    """(..., 4) -> (...): width x height, 0 where a side is not positive."""
    size = (boxes[..., 2:] - boxes[..., :2]).clip(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a: Array, b: Array) -> Array:
    """Area of overlap of `a` and `b` (..., 4), broadcast against each other -> (...)."""
    xp = namespace(a)
    top_left = xp.maximum(a[..., :2], b[..., :2])
    bottom_right = xp.minimum(a[..., 2:], b[..., 2:])
    size = (bottom_right - top_left).clip(min=0)
    return size[..., 0] * size[..., 1]


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of `a` and `b` (..., 4), broadcast -> (...) in [0, 1].

    Two boxes of zero area have IoU 0, not NaN. Lecture: "NMS" and "AP"; Everingham et al. 2010, 4.2.
    """
    xp = namespace(a)
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap
    return overlap / xp.where(union > 0, union, xp.ones_like(union))


def giou(a: Array, b: Array) -> Array:
    """Generalised IoU of `a` and `b` (..., 4), broadcast -> (...) in (-1, 1].

    IoU minus the share of the smallest enclosing box that neither covers, so that it still says how far
    apart two boxes are when they do not touch (Rezatofighi et al. 2019, equation 3).
    """
    xp = namespace(a)
    top_left = xp.minimum(a[..., :2], b[..., :2])
    bottom_right = xp.maximum(a[..., 2:], b[..., 2:])
    hull = area(xp.concatenate([top_left, bottom_right], axis=-1))
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap
    one = xp.ones_like(union)
    return overlap / xp.where(union > 0, union, one) - (hull - union) / xp.where(hull > 0, hull, one)


def pairwise_iou(a: Array, b: Array) -> Array:
    """(n, 4), (m, 4) -> (n, m): IoU of every pair."""
    return iou(a[:, None, :], b[None, :, :])


def clip(boxes: Array, width: float, height: float) -> Array:
    """Boxes (..., 4) cut to the rectangle (0, 0, width, height)."""
    xp = namespace(boxes)
    x = boxes[..., 0::2].clip(0, width)
    y = boxes[..., 1::2].clip(0, height)
    return xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def encode_deltas(boxes: Array, anchors: Array, variances: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """What a regression has to say to turn anchors (or proposals) into boxes: (..., 4) tx, ty, tw, th.

    tx = (gx - px) / pw, ty = (gy - py) / ph, tw = log(gw / pw), th = log(gh / ph), g the box and p the
    anchor by centre, width and height, each divided by its variance (SSD's and Fast R-CNN's 0.1, 0.1, 0.2,
    0.2 bring the four to about the same spread). Lecture, "Box regression"; Girshick et al. 2014, C.

    Args:
        boxes, anchors: (..., 4) xyxy, broadcast against each other, sides above 0.
        variances: of x, y, w, h.
    """
    xp = namespace(boxes)
    box, anchor = to_centre(boxes), to_centre(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    scale = xp.log(box[..., 2:] / anchor[..., 2:])
    return _per_side(xp.concatenate([shift, scale], axis=-1), [1 / v for v in variances])


def apply_deltas(
    deltas: Array,
    anchors: Array,
    variances: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = MAX_LOG_SCALE,
) -> Array:
    """The inverse of `encode_deltas`: boxes (..., 4) xyxy, not cut to the image.

    x = pw dx + px, y = ph dy + py, w = pw exp(dw), h = ph exp(dh), after each delta is multiplied by its
    variance; dw and dh are cut at `clip` from above. An anchor without area stays one.

    Args:
        deltas, anchors: (..., 4), broadcast against each other. variances: of x, y, w, h.
    """
    xp = namespace(deltas)
    scaled, anchor = _per_side(deltas, variances), to_centre(anchors)
    centre = scaled[..., :2] * anchor[..., 2:] + anchor[..., :2]
    size = xp.exp(scaled[..., 2:].clip(max=clip)) * anchor[..., 2:]
    return from_centre(xp.concatenate([centre, size], axis=-1))


def _per_side(deltas: Array, factors: Sequence[float]) -> Array:
    """Deltas (..., 4) times one factor for each of x, y, w, h; as they are where all factors are 1."""
    if all(f == 1 for f in factors):
        return deltas
    xp = namespace(deltas)
    if xp is np:
        return deltas * np.asarray(factors, deltas.dtype)
    return deltas * xp.tensor(list(factors), dtype=deltas.dtype, device=deltas.device)
