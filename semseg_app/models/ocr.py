"""OCRNet's head: every pixel draws context from the regions of the classes.

Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, section 3.2:
1. an auxiliary classifier gives coarse logits, a softmax over the pixels of each class its soft region;
2. a region's representation is the average of the pixels' features, weighted by the region;
3. each pixel attends to the regions, and what it gets is fused with its own features.
The coarse logits are supervised while training, and the deployed network needs them too.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semseg_app.models.hrnet import BRANCHES, concatenate_branches
from semseg_app.models.network import Decoded


def region_representations(pixels: Tensor, region_logits: Tensor) -> Tensor:
    """Equation 2: features `[B, C, h, w]`, logits `[B, K, h, w]` -> `[B, C, K]`."""
    regions = region_logits.flatten(2).softmax(dim=2)  # [B, K, h*w]
    return pixels.flatten(2) @ regions.mT


class ObjectAttention(nn.Module):
    """Equations 3 and 4: features `[B, C, h, w]`, regions `[B, C, K]` -> context `[B, C, h, w]`.

    context_i = rho(sum_k w_ik delta(f_k)), w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(key channels)).
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.phi = nn.Sequential(_convolution(channels, key_channels), _convolution(key_channels, key_channels))
        self.psi = nn.Sequential(_convolution(channels, key_channels), _convolution(key_channels, key_channels))
        self.delta = _convolution(channels, key_channels)
        self.rho = _convolution(key_channels, channels)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        regions = regions.unsqueeze(3)
        query = self.phi(pixels)  # [B, D, h, w]
        key = self.psi(regions).squeeze(3)  # [B, D, K]
        value = self.delta(regions).squeeze(3)  # [B, D, K]
        weight = (query.flatten(2).mT @ key / math.sqrt(key.shape[1])).softmax(dim=2)  # [B, h*w, K]
        return self.rho((value @ weight.mT).view_as(query))


class OCRDecoder(nn.Module):
    """Encoder maps -> `[B, channels, h, w]`, and from `supervised` the logits of the regions, `[B, K, h, w]`, too.

    Over an HRNet both come from its concatenated branches, at stride 4. Over other encoders, dilated to stride 8 or 16,
    the regions come from the last map but one and the pixels' features from the last, as the paper does with ResNets.
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int, num_classes: int, parallel_branches: bool):
        super().__init__()
        self.parallel_branches = parallel_branches
        if parallel_branches:
            coarse = deep = width = sum(encoder_channels[-BRANCHES:])
        else:
            coarse, deep, width = encoder_channels[-2], encoder_channels[-1], channels
        self.regions = nn.Sequential(
            _convolution(coarse, width, kernel_size=1 if parallel_branches else 3), nn.Conv2d(width, num_classes, 1)
        )
        self.pixels = _convolution(deep, channels, kernel_size=3)
        self.attention = ObjectAttention(channels, channels // 2)
        self.fuse = nn.Sequential(*_convolution(2 * channels, channels), nn.Dropout2d(0.05))

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.supervised(maps)[0]

    def supervised(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the logits of the regions."""
        if self.parallel_branches:
            coarse = deep = concatenate_branches(maps)
        else:
            coarse, deep = maps[-2], maps[-1]
        region_logits = self.regions(coarse)
        pixels = self.pixels(deep)
        context = self.attention(pixels, region_representations(pixels, region_logits))
        return self.fuse(torch.cat([context, pixels], dim=1)), region_logits


def ocr_features(decoder: OCRDecoder, maps: list[Tensor]) -> Decoded:
    """The logits of the regions are auxiliary ones."""
    decoded, region_logits = decoder.supervised(maps)
    return Decoded(decoded, [region_logits])


def _convolution(in_channels: int, channels: int, kernel_size: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
