"""Regions of two-stage detectors: proposals, their non-maximum suppression, and features of a region.

Each is here in two forms with the same results. The plain form is made of MatMul, TopK, MaxPool, Gather and
arithmetic, with static shapes: every engine takes it, TensorRT for RTX too. The form with the operator
(`operators=True`: RoiAlign, NonMaxSuppression, MaxRoiPool) is faster where an engine has it, and is what
training uses. Boxes are (N, P, 4) xyxy in pixels of the network input, the same number P for each image.

Rankings are of logits: large ones have equal sigmoids, and engines then choose different boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedet.contract.boxes import apply_deltas, area, clip, intersection


def roi_align(
    features: Tensor,
    boxes: Tensor,
    scale: float,
    *,
    bins: int = 7,
    samples: int = 2,
    weight: Tensor | None = None,
    operators: bool = False,
) -> Tensor:
    """Bilinear samples of a region, averaged in bins, nothing rounded (He et al. 2017, section 3).

    Equals `torchvision.ops.roi_align(..., aligned=True)`. Bilinear interpolation on a grid of samples is
    separable, so in the plain form it is one matrix for the rows and one for the columns of each region.

    Args:
        features: (N, C, H, W). boxes: (N, P, 4) in pixels; cells are 1 / `scale` pixels wide.
        bins: of the result, along either side. samples: of a bin, along either side.
        weight: (N, P), what each region's result is multiplied by.

    Returns:
        (N, P, C, bins, bins), as channels last of (N * P, C, bins, bins).
    """
    n, channels, height, width = features.shape
    count = boxes.shape[1]
    if operators:
        from torchvision import ops

        found: Tensor = ops.roi_align(features, _rows(boxes), bins, scale, samples, aligned=True)
        found = found.reshape(n, count, channels, bins, bins)
        return found if weight is None else found * weight[..., None, None, None]
    across = bilinear(boxes[..., 0] * scale, boxes[..., 2] * scale, width, bins, samples)
    down = bilinear(boxes[..., 1] * scale, boxes[..., 3] * scale, height, bins, samples)
    if weight is not None:
        down = down * weight[..., None, None]
    # (N, P bins, H) @ (N, H, W C)
    rows = down.reshape(n, count * bins, height) @ features.permute(0, 2, 3, 1).reshape(
        n, height, width * channels
    )
    rows = rows.reshape(n, count, bins, width, channels)
    return (across[:, :, None] @ rows).permute(0, 1, 4, 2, 3)  # (N, P, 1, bins, W) @ (N, P, bins, W, C)


def bilinear(low: Tensor, high: Tensor, cells: int, bins: int, samples: int) -> Tensor:
    """(N, P) from and to, in cells -> (N, P, bins, cells): how much of each cell is in each bin."""
    steps = torch.arange(bins * samples, dtype=low.dtype, device=low.device)
    share = (steps + 0.5) / (bins * samples)
    at = (low - 0.5)[..., None] + (high - low)[..., None] * share  # (N, P, bins samples), in cells' centres
    inside = ((at >= -1) & (at <= cells)).to(low.dtype)
    centre = torch.arange(cells, dtype=low.dtype, device=low.device)
    weights = (1 - (at.clamp(0, cells - 1)[..., None] - centre).abs()).clamp(min=0) * inside[..., None]
    return weights.reshape(*low.shape, bins, samples, cells).mean(-2)


def pyramid_align(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    *,
    canonical: float,
    bins: int = 7,
    operators: bool = False,
) -> Tensor:
    """RoIAlign on that level of a pyramid which fits a region's size (Lin et al. 2017, equation 1).

    A region of `canonical` pixels or more (the root of its area) is looked at on the second level, one of
    twice that on the third, and so on; what is smaller on the first. Levels are told apart by comparing
    areas, not by a logarithm, which engines round differently.

    Args:
        levels: (N, C, H / stride, W / stride) each. boxes: (N, P, 4) in pixels.

    Returns:
        (N, P, C, bins, bins).
    """
    size = area(boxes)
    out: Tensor | None = None
    for i, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        here = torch.ones_like(size)
        if i > 0:
            here = here * (size >= (canonical * 2 ** (i - 1)) ** 2)
        if i < len(levels) - 1:
            here = here * (size < (canonical * 2**i) ** 2)
        weight = here if len(levels) > 1 else None
        found = roi_align(features, boxes, 1 / stride, bins=bins, weight=weight, operators=operators)
        out = found if out is None else out + found
    assert out is not None
    return out


def roi_max_pool(
    features: Tensor, boxes: Tensor, scale: float, *, bins: int = 7, operators: bool = False
) -> Tensor:
    """The largest value of each bin, whose window depends on the region (Girshick 2015, section 2.1).

    Equals `torchvision.ops.roi_pool`. In the plain form any window is the union of four whose sides are
    powers of two, and the pools of all such windows are made once for an image (a sparse table). Where bins
    begin and end stands in tables: no engine divides.

    Args:
        features: (N, C, H, W). boxes: (N, P, 4) in pixels inside the image; cells are 1 / `scale` pixels.

    Returns:
        (N, P, C, bins, bins); a bin outside the image is 0.
    """
    n, channels, height, width = features.shape
    count = boxes.shape[1]
    if operators:
        from torchvision import ops

        if torch.onnx.is_in_onnx_export():
            pooled = torch.onnx.ops.symbolic(
                "MaxRoiPool",
                (features, _rows(boxes)),
                {"pooled_shape": [bins, bins], "spatial_scale": float(scale)},
                dtype=features.dtype,
                shape=(n * count, channels, bins, bins),
            )
        else:
            # features of less precision (autocast) pass unchanged; coordinates must not lose any
            pooled = ops.roi_pool(features.to(boxes.dtype), _rows(boxes), bins, scale)
        return pooled.reshape(n, count, channels, bins, bins)

    first_row, last_row, rows = _windows(boxes[..., 1] * scale, boxes[..., 3] * scale, height, bins)
    first_col, last_col, cols = _windows(boxes[..., 0] * scale, boxes[..., 2] * scale, width, bins)
    down, across = _powers(height, bins), _powers(width, bins)
    tables = []
    for tall in down:
        for wide in across:
            pooled = torch.nn.functional.max_pool2d(features, (tall, wide), 1)
            # a window that would leave the image is never looked up
            tables.append(torch.nn.functional.pad(pooled, (0, wide - 1, 0, tall - 1)))
    table = torch.stack(tables, dim=1).permute(0, 1, 3, 4, 2)  # (N, windows, H, W, C)
    table = table.reshape(n, len(tables) * height * width, channels)

    tall_level, wide_level = _level(rows, down), _level(cols, across)  # (N, P, bins)
    row_starts = first_row, last_row - torch.tensor(down, device=boxes.device)[tall_level]
    col_starts = first_col, last_col - torch.tensor(across, device=boxes.device)[wide_level]
    base = (tall_level[..., :, None] * len(across) + wide_level[..., None, :]) * (height * width)
    out: Tensor | None = None
    for row in row_starts:
        for col in col_starts:
            row_, col_ = row.clamp(0, height - 1), col.clamp(0, width - 1)
            index = base + row_[..., :, None] * width + col_[..., None, :]  # (N, P, bins, bins)
            found = table.gather(1, index.reshape(n, -1, 1).expand(-1, -1, channels))
            out = found if out is None else torch.maximum(out, found)
    assert out is not None
    some = ((rows > 0)[..., :, None] & (cols > 0)[..., None, :]).to(features.dtype)
    return (out.reshape(n, count, bins, bins, channels) * some[..., None]).permute(0, 1, 4, 2, 3)


def _powers(cells: int, bins: int) -> list[int]:
    """Powers of two up to the longest bin: a region is at most cells + 1 long."""
    longest = min(cells, -(-(cells + 1) // bins) + 1)
    return [2**i for i in range(longest.bit_length())]


def _level(length: Tensor, powers: Sequence[int]) -> Tensor:
    """(...) int64 -> index of the largest power that is no longer."""
    table = [max((i for i, p in enumerate(powers) if p <= n), default=0) for n in range(2 * powers[-1] + 1)]
    return torch.tensor(table, device=length.device)[length]


def _windows(low: Tensor, high: Tensor, cells: int, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, P) from and to, in cells -> where each bin begins, ends (exclusive), its length: (N, P, bins)."""
    start, end = (low + 0.5).floor().long(), (high + 0.5).floor().long()
    longest = cells + 1
    size = (end - start + 1).clamp(1, longest)
    begins = [[i * n // bins for i in range(bins)] for n in range(longest + 1)]
    ends = [[-(-(i + 1) * n // bins) for i in range(bins)] for n in range(longest + 1)]
    first = (start[..., None] + torch.tensor(begins, device=low.device)[size]).clamp(0, cells)
    last = (start[..., None] + torch.tensor(ends, device=low.device)[size]).clamp(0, cells)
    return first, last, (last - first).clamp(min=0)


def suppress(
    boxes: Tensor, present: Tensor, iou: float, *, rounds: int, limit: int = 0, operators: bool = False
) -> Tensor:
    """Greedy non-maximum suppression of boxes that are already ranked, best first.

    In the plain form it is a fixed point: a box is kept if no better kept one overlaps it by more than
    `iou`. Starting from all, each round settles the boxes of one more link of the longest chain in which
    each suppresses the next, so the result is exact from as many rounds on as that chain is long
    (`rounds_needed`). Lecture, "NMS".

    Args:
        boxes: (N, K, 4). present: (N, K) bool: the others are neither kept nor suppress.
        rounds: of the plain form. limit: with operators, at most so many of an image are kept; 0 = all.

    Returns:
        (N, K) bool: kept.
    """
    if operators:
        return _suppress_by_operator(boxes, present, iou, limit or boxes.shape[1])
    over = _suppression(boxes, present, iou)
    keep = present.to(boxes.dtype)
    for _ in range(rounds):
        keep = _round(over, present, keep)
    return keep > 0.5


def rounds_needed(boxes: Tensor, present: Tensor, iou: float) -> int:
    """The least number of rounds after which `suppress` is exact for these boxes."""
    over, keep = _suppression(boxes, present, iou), present.to(boxes.dtype)
    for rounds in range(boxes.shape[1] + 1):
        after = _round(over, present, keep)
        if bool((after == keep).all()):
            return rounds
        keep = after
    raise AssertionError("a chain is at most as long as there are boxes")


def _suppression(boxes: Tensor, present: Tensor, iou: float) -> Tensor:
    """(N, K, K) 0 or 1: row i, column j: j is better than i and overlaps it by more than `iou`."""
    a, b = boxes[:, :, None, :], boxes[:, None, :, :]
    overlap = intersection(a, b)
    size = area(boxes)
    union = size[:, :, None] + size[:, None, :] - overlap
    # without a division: two empty boxes overlap by nothing
    over: Tensor = ((overlap > iou * union) & present[:, None, :]).to(boxes.dtype)
    return over.tril(-1)


def _round(over: Tensor, present: Tensor, keep: Tensor) -> Tensor:
    """(N, K) of 0 and 1 -> the same, one link further."""
    suppressors = (over @ keep[..., None])[..., 0]
    return ((suppressors < 0.5) & present).to(keep.dtype)


def _suppress_by_operator(boxes: Tensor, present: Tensor, iou: float, limit: int) -> Tensor:
    """See `suppress`. What the operator gives, of a length that depends on the image, becomes a mask."""
    n, count = boxes.shape[:2]
    # ranks instead of scores: positive, and no two are equal
    rank = torch.arange(count, 0, -1, dtype=boxes.dtype, device=boxes.device).expand(n, count)
    rank = rank * present
    keep = torch.zeros(n, count, dtype=torch.bool, device=boxes.device)
    if torch.onnx.is_in_onnx_export():
        chosen = torch.onnx.ops.symbolic(
            "NonMaxSuppression",
            (boxes, rank[:, None], torch.tensor([limit]), torch.tensor([iou]), torch.tensor([0.5])),
            dtype=torch.int64,
            shape=(n * limit, 3),  # or fewer
            version=11,
        )
        flat = chosen[:, 0] * count + chosen[:, 2]
        mask: Tensor = (
            torch.zeros_like(rank).reshape(-1).scatter(0, flat, torch.ones_like(flat, dtype=boxes.dtype))
        )
        return mask.reshape(n, count) > 0.5
    from torchvision import ops

    for i in range(n):
        candidates = present[i].nonzero()[:, 0]
        chosen = ops.nms(boxes[i, candidates], rank[i, candidates], iou)[:limit]
        keep[i, candidates[chosen]] = True
    return keep


@dataclass(frozen=True)
class Proposing:
    """How proposals are chosen (Ren et al. 2016, section 3.3).

    per_level: of each level the best so many are looked at. count: P, at most so many are proposed.
    iou: of the suppression. rounds: see `suppress`. smallest: side in pixels below which a box is none.
    """

    per_level: int = 200
    count: int = 128
    iou: float = 0.7
    rounds: int = 24
    smallest: float = 1.0


def propose(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    how: Proposing,
    *,
    operators: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decode, clip, keep the best of each level, suppress, and fill up to a fixed number of rows.

    Args:
        logits: of each level (N, A), that an anchor holds an object. deltas: (N, A, 4) (`apply_deltas`).
        anchors: (A, 4) in pixels. size: (height, width) of the network input.

    Returns:
        boxes (N, P, 4) in pixels, inside the image, best first; objectness (N, P) in (0, 1). Rows for which
        there was no proposal are empty boxes of objectness 0.
    """
    boxes, scores, present = candidates(logits, deltas, anchors, size, how)
    keep = suppress(boxes, present, how.iou, rounds=how.rounds, limit=how.count, operators=operators)
    total = boxes.shape[1]
    # what is kept, in its order, before all that is not: no two that are kept have equal keys
    order = torch.arange(total, 0, -1, dtype=boxes.dtype, device=boxes.device) * keep
    key, index = order.topk(min(how.count, total), dim=1)
    there = (key > 0.5).to(boxes.dtype)
    found = _take(boxes, index) * there[..., None]
    objectness = scores.gather(1, index).sigmoid() * there
    lacking = how.count - found.shape[1]
    if lacking > 0:  # a small image has fewer anchors than that
        found = torch.nn.functional.pad(found, (0, 0, 0, lacking))
        objectness = torch.nn.functional.pad(objectness, (0, lacking))
    return found, objectness


def candidates(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    how: Proposing,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `propose` suppresses: boxes (N, K, 4), logits (N, K), best first, present (N, K) bool."""
    boxes, scores = [], []
    for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
        best, index = _best(logit, min(how.per_level, logit.shape[1]))
        boxes.append(apply_deltas(_take(delta, index), anchor[index]))
        scores.append(best)
    all_boxes, all_scores = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
    if len(logits) > 1:
        all_scores, index = _best(all_scores, all_scores.shape[1])
        all_boxes = _take(all_boxes, index)
    all_boxes = clip(all_boxes, size[1], size[0])
    side = all_boxes[..., 2:] - all_boxes[..., :2]
    return all_boxes, all_scores, (side >= how.smallest).all(dim=-1)


def _best(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, in order; of equal ones the first, as ONNX's TopK has it."""
    if torch.onnx.is_in_onnx_export():
        return logits.topk(count, dim=1)
    values, index = logits.sort(dim=1, descending=True, stable=True)
    return values[:, :count], index[:, :count]


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """(N, A, 4), (N, K) -> (N, K, 4)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def _rows(boxes: Tensor) -> Tensor:
    """(N, P, 4) -> (N P, 5): the index of its image before each box."""
    n, count = boxes.shape[:2]
    image = torch.arange(n, dtype=boxes.dtype, device=boxes.device)[:, None, None].expand(n, count, 1)
    return torch.cat([image, boxes], dim=-1).reshape(n * count, 5)
