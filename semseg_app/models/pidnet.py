"""PIDNet-S and -M: a real-time network of three branches that act like a PID controller.

Xu, Xiong, Bhattacharyya, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023.
The context branch (I) is the encoder: it gives a pyramid from stride 4 to 64. The detail branch (P) and the boundary
branch (D) read it at stride 8 and make up the decoder. While training, P has an auxiliary classifier and D a head that
finds boundaries; `PIDNetDecoder.auxiliary` holds both and a model folder neither.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models.network import Decoded
from semseg_app.models.pidnet_blocks import (
    LightBoundaryAttentionGuidedFusion,
    ParallelAggregationPyramidPooling,
    PixelAttentionGuidedFusion,
    normed_convolution,
    preactivated,
    residual_layer,
    resize,
)

WIDTHS = {"pidnet_s": 32, "pidnet_m": 64}
"""Encoder name -> channels of the stem; every other width follows."""
STRIDE = 64
POOLING_CHANNELS = 96


class PIDNetEncoder(nn.Module):
    """The context branch: image -> [image, maps at strides 4, 8, 16, 32, 64], all but the last after their ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.out_channels = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.stem = nn.Sequential(
            *normed_convolution(3, width, 3, stride=2),
            nn.ReLU(),
            *normed_convolution(width, width, 3, stride=2),
            nn.ReLU(),
            residual_layer(width, width, blocks=2),
        )
        self.stride_8 = residual_layer(width, 2 * width, blocks=2, stride=2)
        self.stride_16 = residual_layer(2 * width, 4 * width, blocks=3, stride=2)
        self.stride_32 = residual_layer(4 * width, 8 * width, blocks=3, stride=2)
        self.stride_64 = residual_layer(8 * width, 16 * width, blocks=2, stride=2, bottleneck=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image, functional.relu(self.stem(image))]
        for layer in (self.stride_8, self.stride_16, self.stride_32):
            maps.append(functional.relu(layer(maps[-1])))
        maps.append(self.stride_64(maps[-1]))
        return maps


class Branches(NamedTuple):
    """What the decoder makes of the pyramid, all at stride 8."""

    fused: Tensor
    """`[B, 4 * width, h, w]`."""
    detail: Tensor
    """P after its first fusion, `[B, 2 * width, h, w]`, for the auxiliary classifier."""
    boundary: Tensor
    """D before its last block, `[B, 2 * width, h, w]`, for the boundary head."""


class PIDNetDecoder(nn.Module):
    """The pyramid -> `[B, channels, h, w]` at stride 8.

    Args:
        width: as the encoder's.
        channels: what the classifier reads.
        num_classes: K.
        training_heads: with the heads that only training needs.
    """

    def __init__(self, width: int, channels: int, num_classes: int, training_heads: bool):
        super().__init__()
        narrow, wide = 2 * width, 4 * width
        self.detail_16 = residual_layer(narrow, narrow, blocks=2)
        self.detail_32 = residual_layer(narrow, narrow, blocks=2)
        self.detail_64 = residual_layer(narrow, wide, blocks=1, bottleneck=True)
        self.context_16 = normed_convolution(4 * width, narrow)
        self.context_32 = normed_convolution(8 * width, narrow)
        self.fusion_16 = PixelAttentionGuidedFusion(narrow, width)
        self.fusion_32 = PixelAttentionGuidedFusion(narrow, width)

        self.boundary_16 = residual_layer(narrow, width, blocks=1)
        self.boundary_32 = residual_layer(width, narrow, blocks=1, bottleneck=True)
        self.boundary_64 = residual_layer(narrow, wide, blocks=1, bottleneck=True)
        self.difference_16 = normed_convolution(4 * width, width, 3)
        self.difference_32 = normed_convolution(8 * width, narrow, 3)

        self.pyramid = ParallelAggregationPyramidPooling(16 * width, POOLING_CHANNELS, wide)
        self.fusion = LightBoundaryAttentionGuidedFusion(wide)
        self.head = nn.Sequential(*preactivated(wide, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())
        self.auxiliary = (
            nn.ModuleDict({"detail": _head(narrow, channels, num_classes), "boundary": _head(narrow, width, 1)})
            if training_heads
            else None
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.head(self.branches(maps).fused)

    def supervised(self, maps: list[Tensor]) -> Decoded:
        """What `forward` gives, auxiliary logits of P, and logits `[B, 1, h, w]` of D: does a boundary pass here?"""
        fused, detail, boundary = self.branches(maps)
        decoded = self.head(fused)
        if self.auxiliary is None:
            return Decoded(decoded)
        return Decoded(decoded, [self.auxiliary["detail"](detail)], self.auxiliary["boundary"](boundary))

    def branches(self, maps: list[Tensor]) -> Branches:
        at_8, at_16, at_32, at_64 = maps[-4:]
        first_detail = self.fusion_16(self.detail_16(at_8), self.context_16(at_16))
        detail = self.fusion_32(self.detail_32(functional.relu(first_detail)), self.context_32(at_32))
        detail = self.detail_64(functional.relu(detail))

        boundary = self.boundary_16(at_8) + resize(self.difference_16(at_16), at_8)
        boundary = self.boundary_32(functional.relu(boundary)) + resize(self.difference_32(at_32), at_8)

        context = resize(self.pyramid(at_64), at_8)
        fused = self.fusion(detail, context, self.boundary_64(functional.relu(boundary)))
        return Branches(fused, first_detail, boundary)


def pidnet_features(decoder: PIDNetDecoder, maps: list[Tensor]) -> Decoded:
    """With the logits of the heads for training, where it has them."""
    return decoder.supervised(maps)


def _head(in_channels: int, channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *preactivated(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, outputs, 1)
    )
