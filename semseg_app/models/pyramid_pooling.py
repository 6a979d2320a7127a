"""Pyramid pooling (Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.2) that exports right at every size.

Adaptive average pooling bakes the bins of the traced size into an exported graph: at any other size the mask changes
without a word. Here each pooling is a product with a small averaging matrix that is computed from the size at hand.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

POOL_SIZES = (1, 2, 3, 6)


def averaging_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """`[bins, length]`: row i averages floor(i*length/bins) up to ceil((i+1)*length/bins), as adaptive pooling does."""
    position = torch.arange(length, device=like.device).unsqueeze(0)
    index = torch.arange(bins, device=like.device).unsqueeze(1)
    start = torch.div(index * length, bins, rounding_mode="floor")
    end = torch.div((index + 1) * length + bins - 1, bins, rounding_mode="floor")
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def adaptive_average_pool(maps: Tensor, bins: int) -> Tensor:
    """`[B, C, H, W]` -> `[B, C, bins, bins]`; equal to functional.adaptive_avg_pool2d."""
    if bins == 1:
        return maps.mean(dim=(2, 3), keepdim=True)
    rows = averaging_matrix(maps.shape[2], bins, maps)  # [bins, H]
    columns = averaging_matrix(maps.shape[3], bins, maps)  # [bins, W]
    return torch.matmul(torch.matmul(rows, maps), columns.t())


class PyramidPooling(nn.Module):
    """Context at four scales beside the input: `[B, C, H, W]` -> `[B, C + 4 * branch_channels, H, W]`."""

    def __init__(self, in_channels: int, branch_channels: int):
        super().__init__()
        # One pooled value an image leaves batch statistics nothing to work with, so the 1x1 branch has no norm.
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, branch_channels, 1, bias=size == 1),
                nn.Identity() if size == 1 else nn.BatchNorm2d(branch_channels),
                nn.ReLU(),
            )
            for size in POOL_SIZES
        )

    def forward(self, maps: Tensor) -> Tensor:
        pyramid = [maps]
        for size, branch in zip(POOL_SIZES, self.branches, strict=True):
            context = branch(adaptive_average_pool(maps, size))
            pyramid.append(functional.interpolate(context, size=maps.shape[2:], mode="bilinear", align_corners=False))
        return torch.cat(pyramid, dim=1)


class PSPDecoder(nn.Module):
    """PSPNet's head on the deepest encoder map: pyramid pooling, 3x3 convolution, dropout. -> `[B, channels, h, w]`."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.pyramid = PyramidPooling(in_channels, in_channels // len(POOL_SIZES))
        self.fuse = nn.Sequential(
            nn.Conv2d(
                in_channels + in_channels // len(POOL_SIZES) * len(POOL_SIZES), channels, 3, padding=1, bias=False
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout2d(0.1),
        )

    def forward(self, stages: list[Tensor]) -> Tensor:
        fused: Tensor = self.fuse(self.pyramid(stages[-1]))
        return fused
