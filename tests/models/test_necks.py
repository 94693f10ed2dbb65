"""The feature pyramid is torchvision's, level by level."""

from __future__ import annotations

from collections import OrderedDict

import torch

from edgedet.models.necks import Fpn


def test_it_is_torchvisions_pyramid() -> None:
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    torch.manual_seed(0)
    channels = [8, 12, 20]
    ours, theirs = Fpn(channels, 16, extra=1), FeaturePyramidNetwork(channels, 16, LastLevelMaxPool())
    for i in range(3):
        for mine, other in (
            (ours.lateral[i], theirs.inner_blocks[i]),
            (ours.smooth[i], theirs.layer_blocks[i]),
        ):
            torch.nn.init.normal_(mine.bias)
            other[0].load_state_dict(mine.state_dict())
    levels = [torch.randn(2, c, 24 // 2**i, 40 // 2**i) for i, c in enumerate(channels)]
    expected = theirs(OrderedDict((str(i), x) for i, x in enumerate(levels)))
    got = ours(levels)
    assert [tuple(x.shape) for x in got] == [(2, 16, 24, 40), (2, 16, 12, 20), (2, 16, 6, 10), (2, 16, 3, 5)]
    for mine, other in zip(got, expected.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
