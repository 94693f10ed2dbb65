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


def test_its_scale_does_not_follow_that_of_the_weights_where_it_has_norms() -> None:
    torch.manual_seed(0)
    neck = Fpn([8, 12, 20], 16, norm=True).train()
    levels = [torch.randn(4, c, 24 // 2**i, 40 // 2**i) for i, c in enumerate([8, 12, 20])]
    before = neck(levels)
    with torch.no_grad():
        for parameter in (p for p in neck.parameters() if p.ndim == 4):
            parameter *= 50
    for level, same in zip(neck(levels), before, strict=True):
        torch.testing.assert_close(level, same, rtol=1e-3, atol=1e-3)
        assert 0.5 < float(level.detach().std()) < 2
