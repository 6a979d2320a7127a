"""DeepLabV3+ as the papers that publish with it build it: plain convolutions, or Google's separable ones.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018. Plain is
the network of UniMatch, AugSeg and U2PL (UniMatch's model/semseg/deeplabv3plus.py): 16.84 million parameters over a
ResNet-50 or -101 with 21 classes, without dropout. Separable is that of TensorFlow's DeepLab, on which PseudoSeg and
PC2Seg build: a norm and a ReLU after the depthwise convolution too, and dropout after the pyramid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LOW_LEVEL_CHANNELS = 48
DROPOUT = 0.1
"""Of the separable form, after the pyramid."""


def _activated(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _pointwise(in_channels: int, channels: int) -> nn.Sequential:
    return _activated(nn.Conv2d(in_channels, channels, 1, bias=False))


def _spatial(in_channels: int, channels: int, separable: bool, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution with norm and ReLU, or a depthwise and a pointwise one, each with norm and ReLU."""
    if not separable:
        return _activated(nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False))
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(*_activated(depthwise), *_pointwise(in_channels, channels))


class AtrousPyramid(nn.Module):
    """ASPP: one map seen at several distances and as a whole, `[B, in_channels, h, w]` -> `[B, channels, h, w]`."""

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], separable: bool):
        super().__init__()
        self.here = _pointwise(in_channels, channels)
        self.atrous = nn.ModuleList(_spatial(in_channels, channels, separable, rate) for rate in rates)
        self.whole = _pointwise(in_channels, channels)
        self.project = _pointwise((2 + len(rates)) * channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        whole = self.whole(maps.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, maps.shape[2], maps.shape[3])
        mixed: Tensor = self.project(torch.cat([self.here(maps), *(rate(maps) for rate in self.atrous), whole], dim=1))
        return mixed


class AtrousDecoder(nn.Module):
    """The encoder's maps -> `[B, channels, H/4, W/4]`.

    Args:
        encoder_channels: of its maps, the image first; the third is at stride 4.
        channels: of the pyramid and of the result.
        rates: dilations of the pyramid.
        separable: Google's form, with dropout; else plain convolutions, without.
        align_corners: how the pyramid is brought to stride 4; see `NetworkChoice.align_corners`.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: int,
        rates: Sequence[int],
        separable: bool,
        align_corners: bool,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.pyramid = AtrousPyramid(encoder_channels[-1], channels, rates, separable)
        self.dropout = nn.Dropout(DROPOUT) if separable else nn.Identity()
        self.reduce = _pointwise(encoder_channels[2], LOW_LEVEL_CHANNELS)
        self.fuse = nn.Sequential(
            _spatial(LOW_LEVEL_CHANNELS + channels, channels, separable), _spatial(channels, channels, separable)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        low = maps[2]
        context = self.dropout(self.pyramid(maps[-1]))
        context = functional.interpolate(context, size=low.shape[2:], mode="bilinear", align_corners=self.align_corners)
        fused: Tensor = self.fuse(torch.cat([self.reduce(low), context], dim=1))
        return fused
