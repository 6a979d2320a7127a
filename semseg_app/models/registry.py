"""The architectures: one literal row for each. Adding one is a decoder in a file of its own and a row here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn

from semseg_app.errors import UserError, did_you_mean
from semseg_app.model_spec import ModelSpec
from semseg_app.models.deeplabv3plus import AtrousDecoder
from semseg_app.models.dpt import DPTDecoder
from semseg_app.models.encoders import is_hrnet, pyramid_encoder, transformer_encoder
from semseg_app.models.hrnet import BRANCHES, HRNetDecoder, fuse_bilinearly
from semseg_app.models.linear import LinearDecoder
from semseg_app.models.multi_grid import widen_last_stage
from semseg_app.models.network import AuxiliaryHead, plain_features
from semseg_app.models.ocr import OCRDecoder, ocr_features
from semseg_app.models.pidnet import SIZES as PIDNETS
from semseg_app.models.pidnet import STRIDE as PIDNET_STRIDE
from semseg_app.models.pidnet import PIDNetDecoder, PIDNetEncoder, pidnet_features
from semseg_app.models.pyramid_pooling import PSPDecoder
from semseg_app.models.setr import SETRAuxiliaryHead, SETRDecoder
from semseg_app.models.upernet import PYRAMID_LEVELS, UPerNetDecoder, upernet_features
from semseg_app.models.vision_transformer import Readout, VisionTransformerEncoder

ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # "Rethinking Atrous Convolution", section 3.3
ALL_SCALES = (-4, -3, -2, -1)
"""Strides 4, 8, 16, 32: HRNet's four branches before their fusion, C2 to C5 of UPerNet, the stages of a SegFormer."""
DILATED = (-4, -2, -1)
"""Dilated encoders at strides 4, 8, 8."""
FIRST_AND_LAST = (-4, -1)
PLAIN_TRANSFORMER_ARCHITECTURES = ("setr", "dpt", "linear")
DILATED_ARCHITECTURES = ("deeplabv3", "deeplabv3plus", "deeplabv3plus-plain", "deeplabv3plus-separable", "pspnet")


class Parts(NamedTuple):
    """What a decoder is made for."""

    spec: ModelSpec
    channels: list[int]
    """Channels of the encoder's maps, the image first."""
    width: int
    """Channels that the decoder shall give."""
    stride: int
    """Stride of the deepest map."""
    training_heads: bool
    """With the heads that the architecture itself has for training only."""


@dataclass(frozen=True)
class Architecture:
    """How a network is put together."""

    encoder: Callable[[ModelSpec, str | None], tuple[Any, int]]
    """(spec, name of the weights or None) -> (encoder, stride of its deepest map). UserError where it does not fit."""
    decoder: Callable[[Parts], nn.Module]
    """Takes the encoder's list of maps and gives `[B, width, h, w]`."""
    width: int | Callable[[ModelSpec, list[int]], int]
    """Width of the decoder where a recipe names none, or how it follows from the encoder and its channels."""
    features: Callable[[Any, list[Any]], Any] = plain_features
    """(decoder, maps) -> `Decoded`: the decoder's map, with what training reads beside it."""
    auxiliary_head: Callable[[int, int], nn.Module] = AuxiliaryHead
    initialize: bool = True
    """Whether the decoder starts from segmentation_models_pytorch's initial weights rather than torch's own."""
    contrast_stages: Callable[[str], Sequence[int]] = lambda encoder: ALL_SCALES
    """Encoder name -> the stages that multi-scale contrast reads where a recipe names none."""
    pyramid_levels: int = 0
    """Maps of its feature pyramid, `Features.pyramid`."""
    aligns_corners: bool = False
    """Whether it can be built with `align_corners`."""


def _pyramid(stride: int, strides: Sequence[int] | None = None) -> Callable[[ModelSpec, str | None], tuple[Any, int]]:
    """An encoder of shrinking maps, of that stride unless the recipe asks for another one of `strides`; None = any."""

    def make(spec: ModelSpec, weights: str | None) -> tuple[Any, int]:
        chosen = spec.output_stride or stride
        if strides is not None and chosen not in strides:
            allowed = " or ".join(map(str, strides))
            advice = f"needs {allowed}" if len(strides) > 1 else "reads a full pyramid; leave output_stride out"
            raise UserError(f"model.output_stride: {spec.architecture} {advice}, not {chosen}")
        encoder = pyramid_encoder(spec.encoder, spec.architecture, chosen, weights)
        if spec.fuse == "bilinear":
            fuse_bilinearly(encoder)
        if spec.multi_grid is not None:
            widen_last_stage(encoder, spec.encoder, spec.multi_grid)
        return encoder, chosen

    return make


def _ocr_encoder(spec: ModelSpec, weights: str | None) -> tuple[Any, int]:
    """HRNet's parallel branches, or a dilated encoder."""
    return (_pyramid(32) if is_hrnet(spec.encoder) else _pyramid(8, (8, 16)))(spec, weights)


def _transformer(readout: Readout) -> Callable[[ModelSpec, str | None], tuple[Any, int]]:
    """A plain vision transformer; its stride is its patch."""

    def make(spec: ModelSpec, weights: str | None) -> tuple[Any, int]:
        if spec.output_stride:
            raise UserError(
                f"model.output_stride: {spec.architecture} has its encoder's patch size; leave output_stride out"
            )
        encoder = transformer_encoder(spec.encoder, spec.architecture, readout, weights)
        if spec.position_grid is not None:
            if not isinstance(encoder, VisionTransformerEncoder) or encoder.model.pos_embed is None:
                raise UserError(f"model.position_grid: {spec.encoder} has no position table; leave position_grid out")
            encoder.resize_position_table(spec.position_grid)
        return encoder, encoder.patch

    return make


def _pidnet_encoder(spec: ModelSpec, weights: str | None) -> tuple[Any, int]:
    if spec.encoder not in PIDNETS:
        raise UserError(f"model.encoder: pidnet has its own, {', '.join(PIDNETS)}; not {spec.encoder}")
    if spec.output_stride:
        raise UserError("model.output_stride: pidnet keeps its strides; leave output_stride out")
    if weights is not None:
        raise UserError(
            f"model.weights: no weights are published that fit {spec.encoder}; set model.weights=null to start from "
            "random weights, which needs many more steps, or name a model folder"
        )
    return PIDNetEncoder(PIDNETS[spec.encoder], published=spec.revision > 1), PIDNET_STRIDE


def _linear(parts: Parts) -> nn.Module:
    if parts.width != parts.channels[-1]:
        raise UserError(
            f"model.decoder_channels: linear classifies the encoder's {parts.channels[-1]} channels themselves; leave "
            "decoder_channels out"
        )
    return LinearDecoder(parts.width)


def _deeplabv3plus(parts: Parts) -> nn.Module:
    rates = ATROUS_RATES[parts.stride]
    return DeepLabV3PlusDecoder(
        parts.channels, 5, parts.width, rates, parts.stride, aspp_separable=True, aspp_dropout=0.1
    )


def _atrous(separable: bool) -> Callable[[Parts], nn.Module]:
    return lambda parts: AtrousDecoder(
        parts.channels, parts.width, ATROUS_RATES[parts.stride], separable, parts.spec.align_corners
    )


ARCHITECTURES: dict[str, Architecture] = {
    "deeplabv3": Architecture(
        encoder=_pyramid(8, (8, 16)),
        decoder=lambda parts: DeepLabV3Decoder(
            parts.channels[-1], parts.width, ATROUS_RATES[parts.stride], aspp_separable=False, aspp_dropout=0.1
        ),
        width=256,
        contrast_stages=lambda encoder: DILATED,
    ),
    "deeplabv3plus": Architecture(encoder=_pyramid(16, (8, 16)), decoder=_deeplabv3plus, width=256),
    "deeplabv3plus-plain": Architecture(
        encoder=_pyramid(16, (8, 16)),
        decoder=_atrous(separable=False),
        width=256,
        initialize=False,  # torch's own initial weights, as published
        aligns_corners=True,
    ),
    "deeplabv3plus-separable": Architecture(
        encoder=_pyramid(16, (8, 16)), decoder=_atrous(separable=True), width=256, aligns_corners=True
    ),
    "pspnet": Architecture(
        encoder=_pyramid(8),
        decoder=lambda parts: PSPDecoder(parts.channels[-1], parts.width),
        width=512,
        contrast_stages=lambda encoder: DILATED,
    ),
    "upernet": Architecture(
        encoder=_pyramid(32, (32,)),
        decoder=lambda parts: UPerNetDecoder(parts.channels, parts.width),
        width=256,
        features=upernet_features,
        pyramid_levels=PYRAMID_LEVELS,
    ),
    "upernet-plain": Architecture(
        encoder=_pyramid(32, (32,)),
        decoder=lambda parts: UPerNetDecoder(parts.channels, parts.width, normalizes=False),
        width=512,
        features=upernet_features,
        pyramid_levels=PYRAMID_LEVELS,
    ),
    "segformer": Architecture(
        encoder=_pyramid(32, (32,)),
        decoder=lambda parts: SegformerDecoder(parts.channels, segmentation_channels=parts.width),
        width=256,
    ),
    "unet": Architecture(  # up to stride 2: the last doubling costs as much as the rest and is left to `upsample`
        encoder=_pyramid(32, (32,)),
        decoder=lambda parts: UnetDecoder(
            parts.channels, [factor * parts.width for factor in (8, 4, 2, 1)], n_blocks=4
        ),
        width=32,
    ),
    "setr": Architecture(
        # SETR's heads begin with a norm of their own, so they get the bare residual stream.
        # S4Former's ViT-L supervises blocks 9, 14, 19 and 23. The decoder reads the last alone.
        encoder=_transformer(Readout((4, 7, 9, 11), normalize=False, of_24=(9, 14, 19, 23))),
        decoder=lambda parts: SETRDecoder(parts.channels[-1], parts.width, patch=parts.stride),
        width=256,
        auxiliary_head=SETRAuxiliaryHead,
    ),
    "dpt": Architecture(
        # DINOv2's `get_intermediate_layers`, which UniMatch V2 calls, puts the final norm on every layer.
        encoder=_transformer(Readout((2, 5, 8, 11), normalize=True)),
        decoder=lambda parts: DPTDecoder(parts.channels[-1], parts.width),
        width=128,
        initialize=False,  # it has no norms and starts from torch's own, smaller weights, as published
    ),
    "linear": Architecture(
        encoder=_transformer(Readout((2, 5, 8, 11), normalize=True)),  # the head reads the last alone
        decoder=_linear,
        width=lambda spec, channels: channels[-1],
    ),
    "hrnet": Architecture(
        encoder=_pyramid(32, (32,)),
        decoder=lambda parts: HRNetDecoder(parts.channels, parts.width),
        width=lambda spec, channels: sum(channels[-BRANCHES:]),
    ),
    "ocr": Architecture(
        encoder=_ocr_encoder,
        decoder=lambda parts: OCRDecoder(
            parts.channels, parts.width, parts.spec.num_classes, parallel_branches=is_hrnet(parts.spec.encoder)
        ),
        width=512,
        features=ocr_features,
        contrast_stages=lambda encoder: ALL_SCALES if is_hrnet(encoder) else FIRST_AND_LAST,
    ),
    "pidnet": Architecture(
        encoder=_pidnet_encoder,
        decoder=lambda parts: PIDNetDecoder(
            PIDNETS[parts.spec.encoder],
            parts.width,
            parts.spec.num_classes,
            parts.training_heads,
            published=parts.spec.revision > 1,
        ),
        width=lambda spec, channels: PIDNETS[spec.encoder].head,
        features=pidnet_features,
    ),
}


def refuse_unfit(spec: ModelSpec, row: Architecture) -> None:
    """UserError for keys of the spec that its architecture cannot follow."""
    if spec.align_corners and not row.aligns_corners:
        able = " and ".join(name for name, other in ARCHITECTURES.items() if other.aligns_corners)
        raise UserError(f"model.align_corners: {spec.architecture} cannot; {able} can")
    if spec.position_grid is not None and spec.architecture not in PLAIN_TRANSFORMER_ARCHITECTURES:
        able = ", ".join(PLAIN_TRANSFORMER_ARCHITECTURES)
        raise UserError(f"model.position_grid: {spec.architecture} reads no position table; choose one of {able}")
    if spec.fuse != "nearest" and not is_hrnet(spec.encoder):
        raise UserError(f"model.fuse: {spec.encoder} is no HRNet, and fuses no branches; leave fuse out")
    if spec.multi_grid is not None and spec.architecture not in DILATED_ARCHITECTURES:
        able = ", ".join(DILATED_ARCHITECTURES)
        raise UserError(f"model.multi_grid: {spec.architecture} has no dilated encoder; choose one of {able}")


def architecture(name: str) -> Architecture:
    """The row of that name. ValueError, with the choices, for a name that the table does not have."""
    if name not in ARCHITECTURES:
        near = did_you_mean(name, ARCHITECTURES)
        raise ValueError(f"unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}{near}")
    return ARCHITECTURES[name]
