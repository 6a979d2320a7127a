"""The network that every room works with: encoder, decoder, classifier, with its normalization and padding inside."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from segmentation_models_pytorch.encoders.mix_transformer import MixVisionTransformerEncoder
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.model_spec import ModelSpec
from semseg_app.models.mix_transformer import biased_maps
from semseg_app.models.vision_transformer import VisionTransformerEncoder


class Features(NamedTuple):
    """Every tensor that a method or a distiller may want, by name."""

    stages: list[Tensor]
    """Encoder maps, shallow to deep, `[B, C_s, H_s, W_s]`."""
    decoder: Tensor
    """What the classifier reads, `[B, D, h, w]`."""
    logits: Tensor
    """`[B, num_classes, h, w]`, on the decoder's grid."""
    auxiliary: list[Tensor]
    """Logits that a second loss supervises, each on a grid of its own: first those that the decoder brings (OCRNet's
    regions, PIDNet's detail branch), then those of the auxiliary heads (most: on the grid of their encoder stage)."""
    boundary: Tensor | None = None
    """Logits of a boundary between classes, `[B, 1, h, w]`, of a PIDNet that is trained; else None."""
    pyramid: Sequence[Tensor] = ()
    """UPerNet's feature pyramid, `[B, D, H_s, W_s]` at strides 4, 8, 16, 32; of other networks empty."""

    def split(self, first: int) -> tuple["Features", "Features"]:
        """Those of the first images of the batch, and those of the rest."""
        parts = [
            Features(
                [stage[part] for stage in self.stages],
                self.decoder[part],
                self.logits[part],
                [logits[part] for logits in self.auxiliary],
                None if self.boundary is None else self.boundary[part],
                [level[part] for level in self.pyramid],
            )
            for part in (slice(first), slice(first, None))
        ]
        return parts[0], parts[1]


class Decoded(NamedTuple):
    """What a decoder makes of the encoder's maps, with what training reads beside it; see `Features`."""

    decoder: Tensor
    auxiliary: Sequence[Tensor] = ()
    boundary: Tensor | None = None
    pyramid: Sequence[Tensor] = ()


def plain_features(decoder: nn.Module, maps: list[Tensor]) -> Decoded:
    """`Decoded` of a decoder that has nothing but its map."""
    return Decoded(decoder(maps))


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
        stride: of the encoder's deepest map.
        auxiliary_stages: indices into `Features.stages` that get an auxiliary head.
        auxiliary_head: (channels of the stage, classes) -> such a head.
        decoded: (decoder, maps) -> its map with what training reads beside it.
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
        auxiliary_head: Callable[[int, int], nn.Module] = AuxiliaryHead,
        decoded: Callable[[nn.Module, list[Tensor]], Decoded] = plain_features,
    ):
        super().__init__()
        self.frozen: list[str] = []
        """Names of modules that stay in eval mode, because none of their parameters learns."""
        self._decoded = decoded
        self.spec = spec
        self.deepest_stride = stride
        self.stride = 1 if spec.align_corners else stride
        """Sides of the images are padded to a multiple of it, and the maps cover the padded image."""
        self.stage_channels = stage_channels
        self.decoder_channels = decoder_channels
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = nn.Conv2d(decoder_channels, spec.num_classes, kernel_size=1)
        self.auxiliary_stages = auxiliary_stages
        self.auxiliary = nn.ModuleList(
            auxiliary_head(stage_channels[stage], spec.num_classes) for stage in auxiliary_stages
        )
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """All but the frozen modules."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, num_classes, h, w]`, a grid over the image padded right and bottom to the stride."""
        return self.head(self.encode(images))

    def head(self, maps: list[Tensor]) -> Tensor:
        """The second half of `forward`: the output of `encode`, unchanged or modified, to logits."""
        logits: Tensor = self.classifier(self.decoder(maps))
        return logits

    def features(self, images: Tensor) -> Features:
        """Like `forward`, with every intermediate map."""
        return self.decode(self.encode(images))

    def decode(self, maps: list[Tensor]) -> Features:
        """The second half of `features`: the output of `encode`, unchanged or modified."""
        stages = [stage for stage in maps[1:] if stage.shape[1] > 0]  # transformers carry an empty map at stride 2
        decoded = self._decoded(self.decoder, maps)
        heads = [head(stages[index]) for index, head in zip(self.auxiliary_stages, self.auxiliary, strict=True)]
        logits = self.classifier(decoded.decoder)
        auxiliary = [*decoded.auxiliary, *heads]
        return Features(stages, decoded.decoder, logits, auxiliary, decoded.boundary, decoded.pyramid)

    def full_logits(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, num_classes, H, W]`."""
        return self.upsample(self(images), images.shape[2], images.shape[3])

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Bilinear from the grid of the padded image to that image, then cropped to `[B, C, height, width]`."""
        if self.spec.align_corners:
            return functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=True)
        padded = (self._padded(height), self._padded(width))
        return functional.interpolate(logits, size=padded, mode="bilinear", align_corners=False)[..., :height, :width]

    def _padded(self, side: int) -> int:
        """The next multiple of the stride; written with -side, torch 2.14 exports no stride that is no power of 2."""
        return side + (self.stride - side % self.stride) % self.stride

    @property
    def attention_patch(self) -> int | None:
        """Side in pixels of the square that an entry of `encode`'s attention_bias stands for; None: takes no bias."""
        biased = isinstance(self.encoder, VisionTransformerEncoder | MixVisionTransformerEncoder)
        return self.stride if biased else None

    @property
    def attention_class_token(self) -> bool:
        """Whether the encoder has a class token, which entry 0 of `encode`'s attention_bias then is."""
        return isinstance(self.encoder, VisionTransformerEncoder) and self.encoder.class_token

    def prepare(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1], normalized and then padded right and bottom to a multiple of the stride."""
        # Padding after normalizing: the border is then the mean color, not black.
        return self.pad((images - self.mean) / self.std)

    def pad(self, normalized: Tensor) -> Tensor:
        """`[B, 3, H, W]`, padded with zeros right and bottom to a multiple of the stride."""
        height, width = normalized.shape[2], normalized.shape[3]
        return functional.pad(normalized, (0, self._padded(width) - width, 0, self._padded(height) - height))

    def encode(self, images: Tensor, attention_bias: Tensor | None = None) -> list[Tensor]:
        """`[B, 3, H, W]` -> the encoder's maps, the normalized and padded image first.

        `attention_bias`, `[B, 1 + N, 1 + N]`, is added to `Q K^T / sqrt(d)`: in all layers of a vision transformer, in
        the last stage of a MiT. N = squares of side `attention_patch` of the padded image, row by row; entry 0 is the
        class token's, and unread without one. ValueError where the encoder takes no bias or the shape is wrong.
        """
        padded = self.prepare(images)
        if attention_bias is None:
            maps: list[Tensor] = self.encoder(padded)
            return maps
        if self.attention_patch is None:
            raise ValueError(
                f"{self.spec.encoder} takes no attention bias; vision transformers and mit_b0 to mit_b5 do"
            )
        side = 1 + (padded.shape[2] // self.attention_patch) * (padded.shape[3] // self.attention_patch)
        if attention_bias.shape != (len(images), side, side):
            expected = (len(images), side, side)
            raise ValueError(f"attention_bias is {tuple(attention_bias.shape)}, but these images need {expected}")
        bias = attention_bias if self.attention_class_token else attention_bias[:, 1:, 1:]
        if isinstance(self.encoder, MixVisionTransformerEncoder):
            return biased_maps(self.encoder, padded, bias)
        return self.encoder(padded, bias)
