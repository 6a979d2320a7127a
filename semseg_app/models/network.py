"""The network that every room works with: encoder, decoder, classifier, with its normalisation and padding inside."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.model_spec import ModelSpec


class Features(NamedTuple):
    """Every tensor that a method or a distiller may want, by name."""

    stages: list[Tensor]
    """Encoder maps, shallow to deep, `[B, C_s, H_s, W_s]`."""
    decoder: Tensor
    """What the classifier reads, `[B, D, h, w]`."""
    logits: Tensor
    """`[B, num_classes, h, w]`, on the decoder's grid."""
    auxiliary: list[Tensor]
    """Logits of the auxiliary heads, each on the grid of its encoder stage."""


class AuxiliaryHead(nn.Sequential):
    """FCN head on an encoder stage for a second, training-only loss (PSPNet, section 3.3)."""

    def __init__(self, in_channels: int, num_classes: int):
        channels = max(in_channels // 4, 32)
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )


class SegmentationNetwork(nn.Module):
    """RGB in [0, 1] of any size in, logits out.

    Args:
        spec: what was built, for saving and for messages.
        encoder: image -> list of maps, the image itself first (segmentation_models_pytorch's convention).
        decoder: that list -> `[B, D, h, w]`.
        decoder_channels: D.
        stride: sides of the images are padded to a multiple of it.
        auxiliary_stages: indices into `Features.stages` that get an auxiliary head.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: ModelSpec,
        encoder: nn.Module,
        decoder: nn.Module,
        decoder_channels: int,
        stride: int,
        stage_channels: list[int],
        auxiliary_stages: tuple[int, ...] = (),
    ):
        super().__init__()
        self.spec = spec
        self.stride = stride
        self.stage_channels = stage_channels
        self.decoder_channels = decoder_channels
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = nn.Conv2d(decoder_channels, spec.num_classes, kernel_size=1)
        self.auxiliary_stages = auxiliary_stages
        self.auxiliary = nn.ModuleList(
            AuxiliaryHead(stage_channels[stage], spec.num_classes) for stage in auxiliary_stages
        )
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, num_classes, h, w]`, a grid over the image padded right and bottom to the stride."""
        logits: Tensor = self.classifier(self.decoder(self._encode(images)))
        return logits

    def features(self, images: Tensor) -> Features:
        """Like `forward`, with every intermediate map."""
        maps = self._encode(images)
        stages = [stage for stage in maps[1:] if stage.shape[1] > 0]  # transformers carry an empty map at stride 2
        decoded = self.decoder(maps)
        auxiliary = [head(stages[index]) for index, head in zip(self.auxiliary_stages, self.auxiliary, strict=True)]
        return Features(stages, decoded, self.classifier(decoded), auxiliary)

    def full_logits(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, num_classes, H, W]`."""
        return self.upsample(self(images), images.shape[2], images.shape[3])

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Bilinear from the grid of the padded image to that image, then cropped to `[B, C, height, width]`."""
        padded = (height + -height % self.stride, width + -width % self.stride)
        return functional.interpolate(logits, size=padded, mode="bilinear", align_corners=False)[..., :height, :width]

    def _encode(self, images: Tensor) -> list[Tensor]:
        normalised = (images - self.mean) / self.std
        # Padding after normalising: the border is then the mean colour, not black.
        height, width = images.shape[2], images.shape[3]
        padded = functional.pad(normalised, (0, -width % self.stride, 0, -height % self.stride))
        maps: list[Tensor] = self.encoder(padded)
        return maps
