"""Masked generation: hide most of the student's feature and make it regenerate the teacher's from the rest.

Yang et al., "Masked Generative Distillation", ECCV 2022; Af-DCD builds its contrast on the same generator. The module
is for training only and is dropped with the distiller.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from semseg_app.training.losses.pseudo_label import at_least_float32

FeatureLoss = Literal["mean", "sum"]
"""mean: over all elements, one weight for every resolution. sum: over C, H, W and the mean over images, as published;
the sum form is C * H * W times the mean form."""


def random_mask(feature: Tensor, drop_ratio: float) -> Tensor:
    """`[B, 1, H, W]` of 0 and 1 in the dtype of `feature [B, C, H, W]`; each pixel is dropped with `drop_ratio`."""
    batch, _, height, width = feature.shape
    draws = torch.rand(batch, 1, height, width, device=feature.device)
    return (draws >= drop_ratio).to(feature.dtype)


class Generator(nn.Sequential):
    """Two 3x3 convolutions (MGD, equation 3)."""

    def __init__(self, channels: int):
        super().__init__(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )


class EnhancedGenerator(nn.Module):
    """Two chained blocks, each with a convolution of its own, averaged (released code of Af-DCD). Twice the cost."""

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.ReLU(inplace=True))
            for _ in range(2)
        )
        self.adapters = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2))

    def forward(self, feature: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same."""
        first = self.blocks[0](feature)
        second = self.blocks[1](first)
        mean: Tensor = (self.adapters[0](first) + self.adapters[1](second)) / 2
        return mean


class MaskedGeneration(nn.Module):
    """1x1 alignment to the teacher's width, a random mask shared by all channels, a generator.

    Args:
        student_channels: width of the student's feature.
        teacher_channels: width of the teacher's. Equal widths need no alignment.
        drop_ratio: zeta, the share of pixels that is hidden; what stays is not rescaled.
        generator: "plain" or "enhanced".
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        drop_ratio: float,
        generator: Literal["plain", "enhanced"] = "plain",
    ):
        super().__init__()
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
        self.generator = Generator(teacher_channels) if generator == "plain" else EnhancedGenerator(teacher_channels)
        self.drop_ratio = drop_ratio

    def forward(self, student: Tensor) -> Tensor:
        """`[B, student_channels, H, W]` -> `[B, teacher_channels, H, W]`."""
        aligned = self.align(student)
        generated: Tensor = self.generator(aligned * random_mask(aligned, self.drop_ratio))
        return generated


def feature_loss(generated: Tensor, teacher: Tensor, form: FeatureLoss = "mean") -> Tensor:
    """Squared error of `generated [B, C, H, W]` against the detached `teacher`, in one of two forms."""
    squares = (at_least_float32(generated) - at_least_float32(teacher.detach())).square()
    return squares.mean() if form == "mean" else squares.sum() / len(squares)
