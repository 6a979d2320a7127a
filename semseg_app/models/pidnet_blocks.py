"""What PIDNet is made of: residual blocks, Pag, PAPPM, DAPPM, Light-Bag, Bag. See pidnet.py for the paper."""

import torch
from torch import Tensor, nn
from torch.nn import functional

BOTTLENECK_EXPANSION = 2
POOLS = ((5, 2), (9, 4), (17, 8))
"""Window and step of PAPPM's poolings; the fourth averages the whole map."""


def resize(maps: Tensor, like: Tensor) -> Tensor:
    """Bilinearly to the grid of `like`."""
    return functional.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)


def normed_convolution(
    in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution and BatchNorm, without activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=bias), nn.BatchNorm2d(channels)
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
    in_channels: int, channels: int, blocks: int, stride: int = 1, bottleneck: bool = False, between: bool = True
) -> nn.Sequential:
    """Blocks with a ReLU `between`, and none at the end: the branches add to one another before it.

    The authors' code has none between bottlenecks. Names of tensors are the same with it and without.
    """
    layers: list[nn.Module] = [ResidualBlock(in_channels, channels, stride, bottleneck)]
    for _ in range(blocks - 1):
        layers += [nn.ReLU() if between else nn.Identity(), ResidualBlock(channels, channels, bottleneck=bottleneck)]
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


class _PyramidPooling(nn.Module):
    """What both poolings share: context of five scales on the grid of the input, a compression and a shortcut.

    `[B, in_channels, h, w]` -> `[B, channels, h, w]`.

    Args:
        in_channels: of the input.
        branch_channels: of each scale.
        channels: of the result.
        whole_norm: the branch of the whole map begins with a BatchNorm, as published; False in model folders of
            revision 1 (see `ModelSpec.revision`).
    """

    def __init__(self, in_channels: int, branch_channels: int, channels: int, whole_norm: bool = True):
        super().__init__()
        self.same = preactivated(in_channels, branch_channels)
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(window, step, window // 2), *preactivated(in_channels, branch_channels))
            for window, step in POOLS
        )
        self.whole = (
            preactivated(in_channels, branch_channels)
            if whole_norm
            else nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, branch_channels, 1))
        )
        self.compress = preactivated((len(POOLS) + 2) * branch_channels, channels)
        self.shortcut = preactivated(in_channels, channels)

    def contexts(self, maps: Tensor, same: Tensor) -> list[Tensor]:
        """The pooled scales, from the smallest window to the whole map; the last is `[B, branch_channels, 1, 1]`."""
        return [resize(branch(maps), same) for branch in self.pooled] + [
            self.whole(maps.mean(dim=(2, 3), keepdim=True))
        ]


class ParallelAggregationPyramidPooling(_PyramidPooling):
    """PAPPM (section 3.3), of PIDNet-S and -M: all scales are mixed at once by one grouped convolution."""

    def __init__(self, in_channels: int, branch_channels: int, channels: int, whole_norm: bool = True):
        super().__init__(in_channels, branch_channels, channels, whole_norm)
        scales = len(POOLS) + 1
        self.process = preactivated(scales * branch_channels, scales * branch_channels, 3, groups=scales)

    def forward(self, maps: Tensor) -> Tensor:
        same = self.same(maps)
        processed = self.process(torch.cat([same + context for context in self.contexts(maps, same)], dim=1))
        return self.compress(torch.cat([same, processed], dim=1)) + self.shortcut(maps)


class DeepAggregationPyramidPooling(_PyramidPooling):
    """DAPPM (Hong et al., "Deep Dual-resolution Networks", 2021), of PIDNet-L: every scale adds to the one before."""

    def __init__(self, in_channels: int, branch_channels: int, channels: int):
        super().__init__(in_channels, branch_channels, channels)
        self.process = nn.ModuleList(preactivated(branch_channels, branch_channels, 3) for _ in range(len(POOLS) + 1))

    def forward(self, maps: Tensor) -> Tensor:
        scales = [self.same(maps)]
        for context, process in zip(self.contexts(maps, scales[0]), self.process, strict=True):
            scales.append(process(context + scales[-1]))
        return self.compress(torch.cat(scales, dim=1)) + self.shortcut(maps)


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


class BoundaryAttentionGuidedFusion(nn.Module):
    """Bag (section 3.4), of PIDNet-L: out = f(sigma v_p + (1 - sigma) v_i) with sigma = sigmoid(v_d)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = preactivated(channels, channels, 3)  # f

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        sigma = boundary.sigmoid()
        mixed: Tensor = self.mix(sigma * detail + (1 - sigma) * context)
        return mixed
