"""Anchors: known values, and torchvision's where the form coincides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgedet.contract.anchors import count, grid, make_anchors, shapes, ssd_shapes


def test_shapes_by_hand() -> None:
    assert shapes([32], [1.0]) == [[32, 32]]
    np.testing.assert_allclose(shapes([16], [4.0, 0.25]), [[32, 8], [8, 32]])
    nine = shapes()
    assert len(nine) == 9
    np.testing.assert_allclose([w * h for w, h in nine], np.repeat([128.0**2, 256.0**2, 512.0**2], 3))
    np.testing.assert_allclose([w / h for w, h in nine], [0.5, 1, 2] * 3)


def test_the_order_is_level_row_column_shape() -> None:
    anchors = make_anchors((64, 96), [32, 64], [[[10, 20], [30, 40]], [[50, 60]]])
    assert anchors.shape == (2 * 3 * 2 + 1 * 2, 4)
    assert count((64, 96), [32, 64], [[[10, 20], [30, 40]], [[50, 60]]]) == len(anchors)
    # row 1, column 2 of the first level: centre (80, 48)
    np.testing.assert_allclose(anchors[(1 * 3 + 2) * 2], [75, 38, 85, 58])
    np.testing.assert_allclose(anchors[(1 * 3 + 2) * 2 + 1], [65, 28, 95, 68])
    # a stride that does not divide 96: two columns, whose centres are at 1/4 and 3/4 of the image
    np.testing.assert_allclose(anchors[12], [24 - 25, 32 - 30, 24 + 25, 32 + 30])
    np.testing.assert_allclose(anchors[13], [72 - 25, 32 - 30, 72 + 25, 32 + 30])


def test_a_grid_is_what_padded_convolutions_of_stride_two_leave() -> None:
    side = torch.zeros(1, 1, 320, 352)
    for stride in (2, 4, 8, 16, 32, 64, 128, 256):
        side = torch.nn.functional.conv2d(side, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
        assert tuple(side.shape[2:]) == grid((320, 352), stride)


def test_ssd_shapes_by_the_lectures_formulas() -> None:
    made = ssd_shapes(6, (300, 300))  # s = 0.2, 0.34, 0.48, 0.62, 0.76, 0.9
    assert [len(level) for level in made] == [6] * 6
    for s, following, level in zip(
        (0.2, 0.34, 0.48, 0.62, 0.76, 0.9), (0.34, 0.48, 0.62, 0.76, 0.9, 1.04), made, strict=True
    ):
        expected = [[s * math.sqrt(r), s / math.sqrt(r)] for r in (1, 2, 3, 1 / 2, 1 / 3)]
        expected.append([math.sqrt(s * following)] * 2)
        np.testing.assert_allclose(level, 300 * np.array(expected))
    # not square: fractions of each side
    np.testing.assert_allclose(ssd_shapes(2, (100, 200))[0][0], [40, 20])
    assert len(ssd_shapes(1, (100, 100))) == 1
    with pytest.raises(ValueError, match="0 levels"):
        ssd_shapes(0, (100, 100))


def test_default_boxes_are_torchvisions() -> None:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    size, strides = (320, 320), [16, 32, 64, 107, 160]
    sides = [20, 10, 5, 3, 2]
    generator = DefaultBoxGenerator([[2, 3]] * 5, min_ratio=0.2, max_ratio=0.9, clip=False)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    theirs = generator(images, [torch.zeros(1, 1, n, n) for n in sides])[0].numpy().reshape(-1, 6, 4)
    ours = make_anchors(size, strides, ssd_shapes(5, size)).reshape(-1, 6, 4)
    # theirs: s, s', then w / h = 2, 1/2, 3, 1/3; and the s_(L+1) of the last level is 1
    theirs = theirs[:, [0, 2, 4, 3, 5, 1]]
    np.testing.assert_allclose(ours[:, :5], theirs[:, :5], atol=1e-4 * 320)
    np.testing.assert_allclose(ours[:-4, 5], theirs[:-4, 5], atol=1e-4 * 320)


def test_rpn_anchors_are_torchvisions() -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    # theirs: ratio h / w, ratios outermost, corners rounded to whole pixels, centres at the cells' corners
    generator = AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),))
    images = ImageList(torch.zeros(1, 3, 320, 352), [(320, 352)])
    theirs = generator(images, [torch.zeros(1, 1, 20, 22)])[0].numpy().reshape(20, 22, 3, 3, 4)
    ours = make_anchors((320, 352), [16], [shapes()]).reshape(20, 22, 3, 3, 4)
    ours = ours[:, :, :, ::-1].transpose(0, 1, 3, 2, 4) - 8
    np.testing.assert_allclose(ours[:, :, 1], theirs[:, :, 1], atol=1e-4)  # whole pixels as they are
    np.testing.assert_allclose(ours, theirs, atol=0.5 + 1e-4)


def test_fpn_has_one_scale_a_level() -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    strides, scales = [8, 16, 32, 64], (32, 64, 128, 256)
    generator = AnchorGenerator(tuple((s,) for s in scales), ((1.0,),) * 4)
    maps = [torch.zeros(1, 1, 320 // s, 320 // s) for s in strides]
    theirs = generator(ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)]), maps)[0].numpy()
    ours = make_anchors((320, 320), strides, [shapes([s], [1.0]) for s in scales])
    offset = np.repeat([s / 2 for s in strides], [(320 // s) ** 2 for s in strides])[:, None]
    np.testing.assert_allclose(ours - offset, theirs, atol=1e-4)
