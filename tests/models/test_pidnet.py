"""PIDNet's parts against their formulas, and its training-only heads."""

import torch
from torch import nn
from torch.nn import functional

from semseg_app.models import ModelSpec, build
from semseg_app.models.pidnet_blocks import (
    LightBoundaryAttentionGuidedFusion,
    ParallelAggregationPyramidPooling,
    PixelAttentionGuidedFusion,
)


def lively(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something, in double precision."""
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.running_mean)
            nn.init.uniform_(one.running_var, 0.5, 2)
            nn.init.normal_(one.weight)
            nn.init.normal_(one.bias)
    return module.double().eval()


def test_pag_follows_the_context_where_it_agrees_with_the_detail():
    torch.manual_seed(0)
    fusion = lively(PixelAttentionGuidedFusion(4, 3))
    detail, context = torch.randn(2, 4, 6, 10).double(), torch.randn(2, 4, 3, 5).double()
    out = fusion(detail, context)
    projected, compared = fusion.context(context), fusion.detail(detail)
    up = [functional.interpolate(one, size=(6, 10), mode="bilinear") for one in (projected, context)]
    for image, row, column in [(0, 0, 0), (1, 5, 9), (1, 2, 4)]:
        here = (image, slice(None), row, column)
        sigma = 1 / (1 + torch.exp(-(compared[here] * up[0][here]).sum()))
        torch.testing.assert_close(out[here], sigma * up[1][here] + (1 - sigma) * detail[here])


def test_light_bag_takes_details_at_boundaries_and_context_elsewhere():
    fusion = LightBoundaryAttentionGuidedFusion(2)
    fusion.detail = fusion.context = nn.Identity()
    detail, context = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1), torch.tensor([10.0, 7.0]).view(1, 2, 1, 1)
    far = torch.full((1, 2, 1, 1), 50.0)
    torch.testing.assert_close(fusion(detail, context, far), 2 * detail + context)
    torch.testing.assert_close(fusion(detail, context, -far), detail + 2 * context)


def test_pappm_by_hand():
    torch.manual_seed(0)
    module = lively(ParallelAggregationPyramidPooling(6, 4, 5))
    maps = torch.randn(2, 6, 7, 10).double()
    same = module.same(maps)
    contexts = []
    for branch, (window, step) in zip(module.pooled, ((5, 2), (9, 4), (17, 8)), strict=True):
        border = window // 2
        padded = functional.pad(maps, (border, border, border, border))
        pooled = padded.unfold(2, window, step).unfold(3, window, step).mean(dim=(4, 5))
        contexts.append(functional.interpolate(branch[1:](pooled), size=(7, 10), mode="bilinear"))
    contexts.append(module.whole(maps.mean(dim=(2, 3), keepdim=True)).expand(2, 4, 7, 10))
    norm, _, grouped = module.process
    every = norm(torch.cat([same + context for context in contexts], dim=1)).relu()
    processed = [
        functional.conv2d(every[:, 4 * group : 4 * group + 4], grouped.weight[4 * group : 4 * group + 4], padding=1)
        for group in range(4)
    ]
    expected = module.compress(torch.cat([same, *processed], dim=1)) + module.shortcut(maps)
    assert expected.shape == (2, 5, 7, 10)
    torch.testing.assert_close(module(maps), expected)


def test_heads_for_training_only():
    torch.manual_seed(0)
    spec = ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=3)
    network, deployed = build(spec).eval(), build(spec, training_heads=False).eval()
    with torch.inference_mode():
        features = network.features(torch.rand(2, 3, 128, 64))
        assert [tuple(one.shape[1:]) for one in features.stages] == [
            (32, 32, 16),
            (64, 16, 8),
            (128, 8, 4),
            (256, 4, 2),
            (512, 2, 1),
        ]
        assert features.logits.shape == (2, 3, 16, 8)
        assert [one.shape for one in features.auxiliary] == [(2, 3, 16, 8)]
        assert features.boundary.shape == (2, 1, 16, 8)
        assert [part.boundary.shape for part in features.split(1)] == [(1, 1, 16, 8)] * 2
        plain = deployed.features(torch.rand(1, 3, 64, 64))
    assert plain.auxiliary == []
    assert plain.boundary is None
    gone = set(network.state_dict()) - set(deployed.state_dict())
    assert gone
    assert all(name.startswith("decoder.auxiliary.") for name in gone)
