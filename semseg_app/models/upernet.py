"""UPerNet's head: pyramid pooling, a feature pyramid, their fusion.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018. Modules and weights are those of
segmentation_models_pytorch; its pooling would bake a size into the exported graph, and its forward pass hides the maps
between pyramid and fusion. It puts a norm on every map of the encoder, which is right for a Swin; published UPerNets on
ResNets (mmsegmentation, the contrast papers) have none.
"""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder as PackagedDecoder
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models.network import Decoded
from semseg_app.models.pyramid_pooling import POOL_SIZES, PyramidPooling

PYRAMID_LEVELS = 4


class UPerNetDecoder(nn.Module):
    """Encoder maps at strides 1, 2, 4, 8, 16, 32 -> `[B, channels, H/4, W/4]`.

    Args:
        encoder_channels: of each map, the image first.
        channels: width of every level.
        normalizes: with a norm on each of the encoder's last four maps.
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int, normalizes: bool = True):
        super().__init__()
        packaged = PackagedDecoder(encoder_channels, decoder_channels=channels)
        plain = nn.ModuleList(nn.Identity() for _ in range(PYRAMID_LEVELS))
        self.feature_norms = packaged.feature_norms if normalizes else plain
        self.fpn_lateral_blocks = packaged.fpn_lateral_blocks
        self.fpn_conv_blocks = packaged.fpn_conv_blocks
        self.fusion_block = packaged.fusion_block
        deepest = encoder_channels[-1]
        self.psp = nn.Sequential(
            PyramidPooling(deepest, channels),
            Conv2dReLU(deepest + len(POOL_SIZES) * channels, channels, kernel_size=3, padding=1, use_norm="batchnorm"),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.fuse(self.pyramid(maps))

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """The outputs of the feature pyramid, `[B, channels, H/s, W/s]` for s = 4, 8, 16, 32."""
        *laterals, deepest = [norm(one) for norm, one in zip(self.feature_norms, maps[2:], strict=True)]
        states = [self.psp(deepest)]
        for block, lateral in zip(self.fpn_lateral_blocks, reversed(laterals), strict=True):
            states.append(block(states[-1], lateral))
        smoothed = [smooth(state) for smooth, state in zip(self.fpn_conv_blocks, states[1:], strict=True)]
        return [*reversed(smoothed), states[0]]

    def fuse(self, pyramid: list[Tensor]) -> Tensor:
        """All of them on the finest grid, mixed."""
        finest, *coarser = pyramid
        size = finest.shape[2:]
        resized = [functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in coarser]
        fused: Tensor = self.fusion_block(torch.cat([finest, *resized], dim=1))
        return fused


def upernet_features(decoder: UPerNetDecoder, maps: list[Tensor]) -> Decoded:
    """With the feature pyramid."""
    pyramid = decoder.pyramid(maps)
    return Decoded(decoder.fuse(pyramid), pyramid=pyramid)
