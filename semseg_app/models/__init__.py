"""Networks: `build` makes one from a spec, `save_network` and `load` move it to and from a model folder."""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from torch import nn

from semseg_app import artifact
from semseg_app.errors import UserError
from semseg_app.model_spec import ModelSpec
from semseg_app.models.network import Features, SegmentationNetwork
from semseg_app.models.pyramid_pooling import POOL_SIZES, PSPDecoder, PyramidPooling

__all__ = ["Features", "ModelSpec", "SegmentationNetwork", "build", "load", "save_network"]

DEFAULT_STRIDE = {"deeplabv3": 8, "deeplabv3plus": 16, "pspnet": 8, "upernet": 32, "segformer": 32, "unet": 32}
DEFAULT_CHANNELS = {"deeplabv3": 256, "deeplabv3plus": 256, "pspnet": 512, "upernet": 256, "segformer": 256, "unet": 32}
ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # "Rethinking Atrous Convolution", section 3.3
TRAINING_ONLY = "auxiliary."


def build(spec: ModelSpec, encoder_weights: str | None = None, auxiliary: Sequence[int] = ()) -> SegmentationNetwork:
    """A network with fresh weights, drawn from torch's global generator.

    Args:
        spec: architecture, encoder, classes.
        encoder_weights: "imagenet" or another set of segmentation_models_pytorch for this encoder (any text for timm
            encoders, whose name carries its weights). Where the Hub cannot be reached: a warning, and random weights.
        auxiliary: encoder stages (indices into `Features.stages`) that get a training-only auxiliary head.
    """
    stride = spec.output_stride or DEFAULT_STRIDE[spec.architecture]
    if stride == 32 and spec.architecture.startswith("deeplab"):
        raise UserError(f"model.output_stride: {spec.architecture} needs 8 or 16, not 32")
    if stride != 32 and spec.architecture in ("upernet", "segformer", "unet"):
        raise UserError(f"model.output_stride: {spec.architecture} reads a full pyramid; leave output_stride out")
    encoder = _encoder(spec.encoder, stride, encoder_weights)
    channels = list(encoder.out_channels)
    width = spec.decoder_channels or DEFAULT_CHANNELS[spec.architecture]
    decoder = _decoder(spec.architecture, channels, width, stride)
    stages = [count for count in channels[1:] if count > 0]
    for index in auxiliary:
        if not -len(stages) <= index < len(stages):
            raise UserError(f"model.auxiliary: {spec.encoder} has stages 0 to {len(stages) - 1}, not {index}")
    network = SegmentationNetwork(spec, encoder, decoder, width, stride, stages, tuple(auxiliary))
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
    network = build(config.model)
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


def _encoder(name: str, stride: int, weights: str | None) -> Any:
    arguments = {} if stride == 32 else {"output_stride": stride}
    if name.startswith("tu-"):
        import timm

        if not timm.is_model(name.removeprefix("tu-")):
            near = difflib.get_close_matches(name.removeprefix("tu-"), timm.list_models(), n=3)
            raise UserError(f"model.encoder: timm has no {name[3:]!r}" + _did_you_mean([f"tu-{one}" for one in near]))
    elif name not in get_encoder_names():
        near = difflib.get_close_matches(name, get_encoder_names(), n=3)
        raise UserError(f"model.encoder: no encoder {name!r}{_did_you_mean(near)}; any timm model is tu-<name>")
    try:
        if weights is not None:
            try:
                return get_encoder(name, weights=True if name.startswith("tu-") else weights, **arguments)
            except (OSError, RuntimeError) as error:  # no network, no such file, a proxy's answer instead of weights
                reason = str(error).splitlines()[0]
                warnings.warn(
                    f"no pretrained weights for {name}: {reason}. Training starts from random weights, which needs "
                    "many more steps; set model.pretrained to null to silence this",
                    stacklevel=3,
                )
        return get_encoder(name, weights=None, **arguments)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"model.encoder: {name} does not fit here ({error})") from None


def _decoder(architecture: str, channels: list[int], width: int, stride: int) -> nn.Module:
    """A decoder that takes the encoder's list of maps and gives `[B, width, h, w]`."""
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
    if architecture == "unet":  # up to stride 2: the last doubling costs as much as the rest and is left to `upsample`
        return UnetDecoder(channels, [8 * width, 4 * width, 2 * width, width], n_blocks=4)
    decoder = UPerNetDecoder(channels, decoder_channels=width)
    decoder.psp = nn.Sequential(
        PyramidPooling(channels[-1], width),
        Conv2dReLU(channels[-1] + len(POOL_SIZES) * width, width, kernel_size=3, padding=1, use_norm="batchnorm"),
    )
    return decoder


def _did_you_mean(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""
