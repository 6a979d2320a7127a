"""The light head of self-supervised encoders: batch norm, and then the network's 1x1 classifier.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, section 7.4 ("linear"): it classifies
the patches of the last block, so its logits are as coarse as the patches. It costs almost nothing, and on a frozen
encoder it says how much the encoder knows.
"""

from torch import Tensor, nn


class LinearDecoder(nn.Module):
    """`[..., [B, channels, h, w]]` -> the same shape as the last map."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.norm(maps[-1])
