"""HRNet's head: all four resolutions, mixed.

Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", 2020, section 3.3 (HRNetV2). With a
timm HRNet the last four of the encoder's maps are the parallel branches of its last stage, at strides 4, 8, 16, 32, as
they leave it: encoders.py turns off the wider copies of them that timm offers, which belong to classification.

timm fuses the branches by nearest neighbor, in 31 places of an HRNet-W48, and so were its ImageNet weights trained; the
authors' segmentation code (seg_hrnet.py) fuses bilinearly. With the same weights the logits differ by a third of their
deviation, so it is a choice: `ModelSpec.fuse`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

BRANCHES = 4


def concatenate_branches(maps: Sequence[Tensor]) -> Tensor:
    """The last four of `maps`, bilinearly on the finest grid among them: `[B, sum of C_i, H/4, W/4]`."""
    finest, *coarser = maps[-BRANCHES:]
    size = finest.shape[2:]
    resized = [functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in coarser]
    return torch.cat([finest, *resized], dim=1)


class HRNetDecoder(nn.Module):
    """1x1 convolution, BatchNorm and ReLU over the four branches: `[..., four maps]` -> `[B, channels, H/4, W/4]`."""

    def __init__(self, encoder_channels: Sequence[int], channels: int):
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(sum(encoder_channels[-BRANCHES:]), channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.mix(concatenate_branches(maps))


def fuse_bilinearly(encoder: nn.Module) -> None:
    """Let the fusions of a timm HRNet resize bilinearly, in place."""
    for module in encoder.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
