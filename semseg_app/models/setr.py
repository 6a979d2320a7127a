"""SETR-PUP: a vision transformer's last map, upsampled step by step.

Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", 2021, as
S4Former uses it. With patches of 16 the published head doubles its map four times and classifies at full resolution.
The classifier is a 1x1 convolution, which commutes with bilinear upsampling, so the last doubling is left to
`SegmentationNetwork.upsample`: equal logits at a quarter of the memory.
"""

import math

from segmentation_models_pytorch.base.modules import Conv2dReLU
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

NORM_EPSILON = 1e-6
AUXILIARY_CHANNELS = 256


class SETRDecoder(nn.Module):
    """LayerNorm, then four times 3x3 convolution, BatchNorm, ReLU and x2. Patches below 16 need fewer doublings.

    `[..., [B, D, h, w]]` -> `[B, channels, 8 h, 8 w]` (patches of 14 and more; 4 for 8, 2 for 4).
    """

    def __init__(self, in_channels: int, channels: int, patch: int):
        super().__init__()
        doublings = min(math.ceil(math.log2(patch)) - 1, 3)
        layers: list[nn.Module] = [LayerNorm2d(in_channels, eps=NORM_EPSILON)]
        for index in range(4):
            layers.append(_convolution(in_channels if index == 0 else channels, channels))
            if index < doublings:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.layers(maps[-1])


class SETRAuxiliaryHead(nn.Sequential):
    """Training-only head on one of the maps: two convolutions, each x4; the second x4 is left to `upsample`, too."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(
            LayerNorm2d(in_channels, eps=NORM_EPSILON),
            _convolution(in_channels, AUXILIARY_CHANNELS),
            nn.Upsample(scale_factor=4, mode="bilinear"),
            _convolution(AUXILIARY_CHANNELS, AUXILIARY_CHANNELS),
            nn.Conv2d(AUXILIARY_CHANNELS, num_classes, 1),
        )


def _convolution(in_channels: int, channels: int) -> nn.Module:
    return Conv2dReLU(in_channels, channels, kernel_size=3, padding=1, use_norm="batchnorm")
