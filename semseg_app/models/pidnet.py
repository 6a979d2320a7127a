"""PIDNet-S, -M and -L: a real-time network of three branches that act like a PID controller.

Xu, Xiong, Bhattacharyya, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023,
with every layer of the authors' code (models/pidnet.py). The context branch (I) is the encoder: it gives a pyramid from
stride 4 to 64. The detail branch (P) and the boundary branch (D) read it at stride 8 and make up the decoder. While
training, P has an auxiliary classifier and D a head that finds boundaries; `PIDNetDecoder.auxiliary` holds both and a
model folder neither.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models.network import Decoded
from semseg_app.models.pidnet_blocks import (
    BoundaryAttentionGuidedFusion,
    DeepAggregationPyramidPooling,
    LightBoundaryAttentionGuidedFusion,
    ParallelAggregationPyramidPooling,
    PixelAttentionGuidedFusion,
    normed_convolution,
    preactivated,
    residual_layer,
    resize,
)


class Size(NamedTuple):
    """What tells one PIDNet from another."""

    width: int
    """Channels of the stem; every other width follows."""
    shallow: int
    """Blocks per layer at strides 4 and 8, and in the detail branch."""
    deep: int
    """Blocks per layer at strides 16 and 32."""
    pooling: int
    """Channels of each scale of the pooling."""
    head: int
    """Channels that the classifier reads."""
    light: bool
    """With PAPPM, Light-Bag and a narrow boundary branch; else DAPPM, Bag and a wide one."""


SIZES = {
    "pidnet_s": Size(32, 2, 3, 96, 128, light=True),
    "pidnet_m": Size(64, 2, 3, 96, 128, light=True),
    "pidnet_l": Size(64, 3, 4, 112, 256, light=False),
}
"""By the encoder's name."""
STRIDE = 64


class PIDNetEncoder(nn.Module):
    """The context branch: image -> [image, maps at strides 4, 8, 16, 32, 64], all but the last after their ReLU.

    Args:
        size: a row of `SIZES`.
        published: as in the authors' code; False as in model folders of revision 1 (see `ModelSpec.revision`).
    """

    def __init__(self, size: Size, published: bool = True):
        super().__init__()
        width = size.width
        self.out_channels = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.stem = nn.Sequential(
            *normed_convolution(3, width, 3, stride=2, bias=published),
            nn.ReLU(),
            *normed_convolution(width, width, 3, stride=2, bias=published),
            nn.ReLU(),
            residual_layer(width, width, size.shallow),
        )
        self.stride_8 = residual_layer(width, 2 * width, size.shallow, stride=2)
        self.stride_16 = residual_layer(2 * width, 4 * width, size.deep, stride=2)
        self.stride_32 = residual_layer(4 * width, 8 * width, size.deep, stride=2)
        self.stride_64 = residual_layer(
            8 * width, 16 * width, blocks=2, stride=2, bottleneck=True, between=not published
        )
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
    """P after its first fusion and ReLU, `[B, 2 * width, h, w]`, for the auxiliary classifier."""
    boundary: Tensor
    """D before its last block, after its ReLU, `[B, 2 * width, h, w]`, for the boundary head."""


class PIDNetDecoder(nn.Module):
    """The pyramid -> `[B, channels, h, w]` at stride 8.

    Args:
        size: as the encoder's.
        channels: what the classifier reads.
        num_classes: K.
        training_heads: with the heads that only training needs.
        published: as the encoder's.
    """

    def __init__(self, size: Size, channels: int, num_classes: int, training_heads: bool, published: bool = True):
        super().__init__()
        width = size.width
        narrow, wide = 2 * width, 4 * width
        self.detail_16 = residual_layer(narrow, narrow, size.shallow)
        self.detail_32 = residual_layer(narrow, narrow, size.shallow)
        self.detail_64 = residual_layer(narrow, wide, blocks=1, bottleneck=True)
        self.context_16 = normed_convolution(4 * width, narrow)
        self.context_32 = normed_convolution(8 * width, narrow)
        self.fusion_16 = PixelAttentionGuidedFusion(narrow, width)
        self.fusion_32 = PixelAttentionGuidedFusion(narrow, width)

        edge = width if size.light else narrow
        self.boundary_16 = residual_layer(narrow, edge, blocks=1)
        self.boundary_32 = residual_layer(edge, narrow, blocks=1, bottleneck=size.light)
        self.boundary_64 = residual_layer(narrow, wide, blocks=1, bottleneck=True)
        self.difference_16 = normed_convolution(4 * width, edge, 3)
        self.difference_32 = normed_convolution(8 * width, narrow, 3)

        self.pyramid: nn.Module
        self.fusion: nn.Module
        if size.light:
            self.pyramid = ParallelAggregationPyramidPooling(16 * width, size.pooling, wide, whole_norm=published)
            self.fusion = LightBoundaryAttentionGuidedFusion(wide)
        else:
            self.pyramid = DeepAggregationPyramidPooling(16 * width, size.pooling, wide)
            self.fusion = BoundaryAttentionGuidedFusion(wide)
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
        # Both heads for training read what the ReLU leaves: the authors' ReLU works in place on the maps they kept.
        first_detail = functional.relu(self.fusion_16(self.detail_16(at_8), self.context_16(at_16)))
        detail = self.fusion_32(self.detail_32(first_detail), self.context_32(at_32))
        detail = self.detail_64(functional.relu(detail))

        boundary = self.boundary_16(at_8) + resize(self.difference_16(at_16), at_8)
        boundary = self.boundary_32(functional.relu(boundary)) + resize(self.difference_32(at_32), at_8)
        boundary = functional.relu(boundary)

        context = resize(self.pyramid(at_64), at_8)
        fused = self.fusion(detail, context, self.boundary_64(boundary))
        return Branches(fused, first_detail, boundary)


def pidnet_features(decoder: PIDNetDecoder, maps: list[Tensor]) -> Decoded:
    """With the logits of the heads for training, where it has them."""
    return decoder.supervised(maps)


def _head(in_channels: int, channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *preactivated(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, outputs, 1)
    )
