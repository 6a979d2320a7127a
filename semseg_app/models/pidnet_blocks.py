"""What PIDNet is made of: residual blocks, Pag, PAPPM, Light-Bag. See pidnet.py for the paper and the whole."""

import torch
from torch import Tensor, nn
from torch.nn import functional

BOTTLENECK_EXPANSION = 2
POOLS = ((5, 2), (9, 4), (17, 8))
"""Window and step of PAPPM's poolings; the fourth averages the whole map."""


def resize(maps: Tensor, like: Tensor) -> Tensor:
    """Bilinearly to the grid of `like`."""
    return functional.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)


def normed_convolution(in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm, without activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False), nn.BatchNorm2d(channels)
    )


def preactivated(in_channels: int, channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    """BatchNorm, ReLU, convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a bottleneck 1x1, 3x3, 1x1 that widens. The ReLU after the sum is the reader's."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, bottleneck: bool = False):
        super().__init__()
        if bottleneck:
            middle = channels // BOTTLENECK_EXPANSION
            self.body = nn.Sequential(
                *normed_convolution(in_channels, middle),
                nn.ReLU(),
                *normed_convolution(middle, middle, 3, stride),
                nn.ReLU(),
                *normed_convolution(middle, channels),
            )
        else:
            self.body = nn.Sequential(
                *normed_convolution(in_channels, channels, 3, stride),
                nn.ReLU(),
                *normed_convolution(channels, channels, 3),
            )
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else normed_convolution(in_channels, channels, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        return self.body(maps) + self.shortcut(maps)


def residual_layer(
    in_channels: int, channels: int, blocks: int, stride: int = 1, bottleneck: bool = False
) -> nn.Sequential:
    """Blocks with a ReLU between, and none at the end: the branches add to one another before it."""
    layers: list[nn.Module] = [ResidualBlock(in_channels, channels, stride, bottleneck)]
    for _ in range(blocks - 1):
        layers += [nn.ReLU(), ResidualBlock(channels, channels, bottleneck=bottleneck)]
    return nn.Sequential(*layers)


class PixelAttentionGuidedFusion(nn.Module):
    """Pag (section 3.2): the detail branch takes from the context branch where the two agree.

    sigma = sigmoid(f_p(v_p) . f_i(v_i)) a pixel, out = sigma v_i + (1 - sigma) v_p.
    """

    def __init__(self, channels: int, inner_channels: int):
        super().__init__()
        self.detail = normed_convolution(channels, inner_channels)  # f_p
        self.context = normed_convolution(channels, inner_channels)  # f_i

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """`[B, C, h, w]`, `[B, C, h', w']` -> `[B, C, h, w]`."""
        # Projecting before upsampling is cheaper.
        agreement = self.detail(detail) * resize(self.context(context), detail)
        sigma = agreement.sum(dim=1, keepdim=True).sigmoid()
        return sigma * resize(context, detail) + (1 - sigma) * detail


class ParallelAggregationPyramidPooling(nn.Module):
    """PAPPM (section 3.3): context at five scales, mixed by one grouped convolution.

    `[B, in_channels, h, w]` -> `[B, channels, h, w]`.
    """

    def __init__(self, in_channels: int, branch_channels: int, channels: int):
        super().__init__()
        self.same = preactivated(in_channels, branch_channels)
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(window, step, window // 2), *preactivated(in_channels, branch_channels))
            for window, step in POOLS
        )
        # One value an image leaves batch statistics nothing to work with: no norm here, unlike in the paper.
        self.whole = nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, branch_channels, 1))
        scales = len(POOLS) + 1
        self.process = preactivated(scales * branch_channels, scales * branch_channels, 3, groups=scales)
        self.compress = preactivated((scales + 1) * branch_channels, channels)
        self.shortcut = preactivated(in_channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        same = self.same(maps)
        contexts = [resize(branch(maps), same) for branch in self.pooled]
        contexts.append(self.whole(maps.mean(dim=(2, 3), keepdim=True)))
        processed = self.process(torch.cat([same + context for context in contexts], dim=1))
        return self.compress(torch.cat([same, processed], dim=1)) + self.shortcut(maps)


class LightBoundaryAttentionGuidedFusion(nn.Module):
    """Light-Bag (section 3.4): details at boundaries, context elsewhere, `[B, C, h, w]` each.

    sigma = sigmoid(v_d), out = f_p((1 - sigma) v_i + v_p) + f_i(sigma v_p + v_i).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.detail = normed_convolution(channels, channels)  # f_p
        self.context = normed_convolution(channels, channels)  # f_i

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        sigma = boundary.sigmoid()
        return self.detail((1 - sigma) * context + detail) + self.context(sigma * detail + context)
