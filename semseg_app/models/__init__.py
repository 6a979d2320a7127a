"""Networks: `build` makes one from a spec, `save_network` and `load` move it to and from a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn

from semseg_app import artifact
from semseg_app.errors import UserError
from semseg_app.model_spec import ModelSpec
from semseg_app.models.batch_norm import take_single_values
from semseg_app.models.dpt import DPTDecoder
from semseg_app.models.encoders import is_hrnet, pyramid_encoder, refuse_unknown_weights, transformer_encoder
from semseg_app.models.hrnet import BRANCHES, HRNetDecoder
from semseg_app.models.network import AuxiliaryHead, Features, SegmentationNetwork
from semseg_app.models.ocr import OCRDecoder
from semseg_app.models.pidnet import STRIDE as PIDNET_STRIDE
from semseg_app.models.pidnet import WIDTHS as PIDNET_WIDTHS
from semseg_app.models.pidnet import PIDNetDecoder, PIDNetEncoder
from semseg_app.models.pyramid_pooling import PSPDecoder
from semseg_app.models.setr import SETRAuxiliaryHead, SETRDecoder
from semseg_app.models.upernet import UPerNetDecoder
from semseg_app.models.vision_transformer import READOUTS

__all__ = ["Features", "ModelSpec", "SegmentationNetwork", "build", "load", "save_network"]

DEFAULT_STRIDE = {
    "deeplabv3": 8,
    "deeplabv3plus": 16,
    "pspnet": 8,
    "upernet": 32,
    "segformer": 32,
    "unet": 32,
    "hrnet": 32,
    "ocr": 8,
}
DEFAULT_CHANNELS = {
    "deeplabv3": 256,
    "deeplabv3plus": 256,
    "pspnet": 512,
    "upernet": 256,
    "segformer": 256,
    "unet": 32,
    "setr": 256,
    "dpt": 128,
    "ocr": 512,
    "pidnet": 128,
}
ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # "Rethinking Atrous Convolution", section 3.3
TRAINING_ONLY = ("auxiliary.", "decoder.auxiliary.")


def build(
    spec: ModelSpec,
    encoder_weights: str | None = None,
    auxiliary: Sequence[int] = (),
    training_heads: bool = True,
) -> SegmentationNetwork:
    """A network with fresh weights, drawn from torch's global generator.

    Args:
        spec: architecture, encoder, classes.
        encoder_weights: "imagenet" or another set of segmentation_models_pytorch for this encoder (of timm encoders,
            "imagenet" loads the weights that their name carries). UserError where they cannot be had.
        auxiliary: encoder stages (indices into `Features.stages`) that get a training-only auxiliary head.
        training_heads: with the training-only heads that the architecture itself has (PIDNet's).
    """
    refuse_unknown_weights(spec.encoder, encoder_weights)
    encoder, stride = _encoder(spec, encoder_weights)
    channels = list(encoder.out_channels)
    default_width = sum(channels[-BRANCHES:]) if spec.architecture == "hrnet" else DEFAULT_CHANNELS[spec.architecture]
    width = spec.decoder_channels or default_width
    decoder = _decoder(spec, channels, width, stride, training_heads)
    stages = [count for count in channels[1:] if count > 0]
    for index in auxiliary:
        if not -len(stages) <= index < len(stages):
            raise UserError(f"model.auxiliary: {spec.encoder} has stages 0 to {len(stages) - 1}, not {index}")
    head = SETRAuxiliaryHead if spec.architecture == "setr" else AuxiliaryHead
    network = SegmentationNetwork(spec, encoder, decoder, width, stride, stages, tuple(auxiliary), head)
    take_single_values(network)
    if spec.architecture != "dpt":  # which has no norms: it starts from torch's own, smaller weights, as published
        initialize_decoder(network.decoder)
    initialize_decoder(network.auxiliary)
    initialize_head(network.classifier)
    return network


def save_network(folder: Path, network: SegmentationNetwork, config: artifact.ModelConfig) -> None:
    """Write a new model folder. What serves only training (auxiliary heads) stays out of it."""
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(TRAINING_ONLY)}
    artifact.save(folder, config, weights)


def load(folder: Path, device: torch.device | str = "cpu") -> SegmentationNetwork:
    """The network of a model folder, in eval mode."""
    config = artifact.read_config(folder)
    path = folder / artifact.WEIGHTS
    network = build(config.model, training_heads=False)
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the model folder is incomplete, copy it again") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated ({error}); copy it again") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: does not fit {artifact.CONFIG} beside it ({reason})") from None
    return network.to(device).eval()


def _encoder(spec: ModelSpec, weights: str | None) -> tuple[Any, int]:
    """The encoder and the stride of its deepest map."""
    architecture = spec.architecture
    if architecture == "pidnet":
        if spec.encoder not in PIDNET_WIDTHS:
            raise UserError(f"model.encoder: pidnet has its own, {' and '.join(PIDNET_WIDTHS)}, not {spec.encoder}")
        if spec.output_stride:
            raise UserError("model.output_stride: pidnet keeps its strides; leave output_stride out")
        if weights is not None:
            raise UserError(
                f"model.pretrained: no weights are published that fit {spec.encoder}; set model.pretrained=null to "
                "start from random weights, which needs many more steps"
            )
        return PIDNetEncoder(PIDNET_WIDTHS[spec.encoder]), PIDNET_STRIDE
    if architecture in READOUTS:
        if spec.output_stride:
            raise UserError(
                f"model.output_stride: {architecture} has its encoder's patch size; leave output_stride out"
            )
        transformer = transformer_encoder(spec.encoder, architecture, READOUTS[architecture], weights)
        return transformer, transformer.patch
    parallel_branches = architecture == "ocr" and is_hrnet(spec.encoder)
    stride = spec.output_stride or (32 if parallel_branches else DEFAULT_STRIDE[architecture])
    if stride == 32 and (architecture.startswith("deeplab") or (architecture == "ocr" and not parallel_branches)):
        raise UserError(f"model.output_stride: {architecture} needs 8 or 16, not 32")
    if stride != 32 and architecture in ("upernet", "segformer", "unet", "hrnet"):
        raise UserError(f"model.output_stride: {architecture} reads a full pyramid; leave output_stride out")
    return pyramid_encoder(spec.encoder, architecture, stride, weights), stride


def _decoder(spec: ModelSpec, channels: list[int], width: int, stride: int, training_heads: bool) -> nn.Module:
    """A decoder that takes the encoder's list of maps and gives `[B, width, h, w]`."""
    architecture = spec.architecture
    if architecture == "deeplabv3":
        return DeepLabV3Decoder(channels[-1], width, ATROUS_RATES[stride], aspp_separable=False, aspp_dropout=0.1)
    if architecture == "deeplabv3plus":
        return DeepLabV3PlusDecoder(
            channels, 5, width, ATROUS_RATES[stride], stride, aspp_separable=True, aspp_dropout=0.1
        )
    if architecture == "pspnet":
        return PSPDecoder(channels[-1], width)
    if architecture == "segformer":
        return SegformerDecoder(channels, segmentation_channels=width)
    if architecture == "setr":
        return SETRDecoder(channels[-1], width, patch=stride)
    if architecture == "dpt":
        return DPTDecoder(channels[-1], width)
    if architecture == "hrnet":
        return HRNetDecoder(channels, width)
    if architecture == "ocr":
        return OCRDecoder(channels, width, spec.num_classes, parallel_branches=is_hrnet(spec.encoder))
    if architecture == "pidnet":
        return PIDNetDecoder(PIDNET_WIDTHS[spec.encoder], width, spec.num_classes, training_heads)
    if architecture == "unet":  # up to stride 2: the last doubling costs as much as the rest and is left to `upsample`
        return UnetDecoder(channels, [8 * width, 4 * width, 2 * width, width], n_blocks=4)
    return UPerNetDecoder(channels, width)
