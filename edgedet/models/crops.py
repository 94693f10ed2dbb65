"""Regions cut from the image itself and warped to one size: what R-CNN classifies, one after the other."""

from __future__ import annotations

from torch import Tensor

from edgedet.contract.boxes import from_centre, to_centre
from edgedet.models.regions import bilinear, roi_align

CONTEXT = 227 / (227 - 2 * 16)
"""A crop's side over its region's: of the paper's 227 pixels, 16 on each side show what is around it."""


def with_context(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) -> what is cut out for them, with the paper's context; it may reach beyond the image."""
    centred = to_centre(boxes)
    found: Tensor = from_centre(centred * centred.new_tensor([1.0, 1.0, CONTEXT, CONTEXT]))
    return found


def crops(images: Tensor, boxes: Tensor, side: int, *, samples: int = 2, operators: bool = False) -> Tensor:
    """Each region with its context, warped to a square whatever its shape (Girshick et al. 2014, appendix A).

    Outside the image a crop is 0, the mean colour, as in the paper. The same numbers as
    `regions.roi_align` of the image. An image has few channels and a crop many pixels: so the plain form is
    two matrix products for each channel, and never copies a row for each pixel.

    Args:
        images: (N, C, H, W) normalised. boxes: (N, R, 4) xyxy in their pixels. side: of a crop, in pixels.
        samples: averaged for a pixel, along either side.

    Returns:
        (N * R, C, side, side).
    """
    n, channels, height, width = images.shape
    count = boxes.shape[1]
    wide = with_context(boxes)
    if operators:
        found = roi_align(images, wide, 1.0, bins=side, samples=samples, operators=True)
        return found.reshape(n * count, channels, side, side)
    across = bilinear(wide[..., 0], wide[..., 2], width, side, samples)  # (N, R, side, W)
    down = bilinear(wide[..., 1], wide[..., 3], height, side, samples)
    # (N, 1, R side, H) @ (N, C, H, W)
    rows = (down.reshape(n, 1, count * side, height) @ images).reshape(n, channels, count, side, width)
    found = rows @ across.transpose(2, 3)[:, None]  # (N, 1, R, W, side)
    return found.permute(0, 2, 1, 3, 4).reshape(n * count, channels, side, side)
