"""Encoders by name: those of segmentation_models_pytorch, and any of timm as "tu-<name>"."""

import functools
from collections.abc import Callable
from typing import Any

import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from timm.models import is_model_in_modules
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM

from semseg_app.errors import UserError, did_you_mean
from semseg_app.models.intermediate_maps import IntermediateMapsEncoder
from semseg_app.models.sam import SAMEncoder
from semseg_app.models.swin import SwinEncoder
from semseg_app.models.vision_transformer import Readout, VisionTransformerEncoder
from semseg_app.models.weights import fetched

PlainEncoder = VisionTransformerEncoder | SAMEncoder | IntermediateMapsEncoder


def pyramid_encoder(name: str, architecture: str, stride: int, weights: str | None) -> Any:
    """An encoder whose maps shrink from stage to stage down to `stride`; for everything but plain transformers."""
    _refuse_unknown(name)
    if _is_plain_transformer(name):
        raise UserError(
            f"model.encoder: {architecture} needs maps of several sizes, and the plain vision transformer {name} gives "
            "one; take model.architecture dpt, linear or setr"
        )
    swin = name.startswith("tu-swin_")  # not Swin v2, whose windows grow with the image
    if stride != 32 and (swin or is_hrnet(name)):
        raise UserError(f"model.output_stride: {name} keeps strides 4 to 32; leave output_stride out")
    if swin:
        return _with_weights(name, weights is not None, lambda some: SwinEncoder(_swin(name, bool(some))))
    arguments: dict[str, Any] = {} if stride == 32 else {"output_stride": stride}
    if is_hrnet(name):
        # Its parallel branches themselves, not the wider copies of them that classification reads.
        arguments["feature_location"] = ""
    # timm encoders carry the name of their weights in their own name.
    chosen = True if name.startswith("tu-") and weights is not None else weights
    return _with_weights(name, chosen, lambda some: get_encoder(name, weights=some, **arguments))


def is_hrnet(name: str) -> bool:
    """Whether it is one of timm's HRNets, whose last four maps are parallel branches."""
    return name.startswith("tu-hrnet")


def transformer_encoder(name: str, architecture: str, readout: Readout, weights: str | None) -> PlainEncoder:
    """An encoder of timm whose blocks all give maps of one size: ViT, DeiT, DINOv2, DINOv3, EVA, SAM and their kin.

    UserError where timm's model of that name is of another kind, or takes images of one size only.
    """
    _refuse_unknown(name)
    if not name.startswith("tu-"):
        raise _not_plain(name, architecture, "")

    def make(pretrained: bool) -> PlainEncoder:
        create = functools.partial(timm.create_model, name.removeprefix("tu-"), pretrained=pretrained, num_classes=0)
        try:
            model = create(dynamic_img_size=True)
        except TypeError:  # the family needs not be told, or takes one size only
            model = create()
        return _plain_encoder(model, readout)

    try:
        if not _is_plain_transformer(name):
            # Whether it takes any size is seen on a device without memory, before any weights are fetched.
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                encoder = make(pretrained=False).eval()
                encoder(torch.empty(1, 3, 3 * encoder.patch, 2 * encoder.patch))
        return _with_weights(name, weights is not None, lambda some: make(bool(some)))
    except (AttributeError, AssertionError, ValueError, TypeError, RuntimeError) as error:
        raise _not_plain(name, architecture, f" ({str(error).splitlines()[0]})") from None


def _plain_encoder(model: Any, readout: Readout) -> PlainEncoder:
    if isinstance(model, VisionTransformer | Eva):
        return VisionTransformerEncoder(model, readout)
    if isinstance(model, VisionTransformerSAM):
        return SAMEncoder(model, readout)
    return IntermediateMapsEncoder(model, readout)


def _not_plain(name: str, architecture: str, reason: str) -> UserError:
    return UserError(
        f"model.encoder: {architecture} needs a plain vision transformer of timm, such as tu-deit_base_patch16_224 or "
        f"tu-vit_small_patch16_dinov3, not {name}{reason}"
    )


def _with_weights(name: str, weights: str | bool | None, make: Callable[[str | bool | None], Any]) -> Any:
    """`make(weights)`. UserError where the weights cannot be had, or the encoder does not fit."""
    try:
        if not weights:
            return make(None)
        with fetched(name):
            return make(weights)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"model.encoder: {name} does not fit here ({error})") from None


def _swin(name: str, pretrained: bool) -> Any:
    return timm.create_model(
        name.removeprefix("tu-"), pretrained=pretrained, num_classes=0, strict_img_size=False, always_partition=True
    )


def _is_plain_transformer(name: str) -> bool:
    """Whether it is one of timm's families that all of our decoders for plain transformers take."""
    plain = ["vision_transformer", "deit", "eva", "vision_transformer_sam"]
    return name.startswith("tu-") and is_model_in_modules(name.removeprefix("tu-"), plain)


def _refuse_unknown(name: str) -> None:
    if name.startswith("tu-"):
        if not timm.is_model(name.removeprefix("tu-")):
            known_models = [f"tu-{model}" for model in timm.list_models()]
            raise UserError(f"model.encoder: timm has no {name[3:]!r}{did_you_mean(name, known_models, 3)}")
        model, _, tag = name.removeprefix("tu-").partition(".")
        known = timm.list_pretrained(f"{model}.*")
        if tag and f"{model}.{tag}" not in known:
            offered = " or ".join(f"tu-{weights}" for weights in known) or f"tu-{model}"
            raise UserError(f"model.encoder: timm's {model} has no weights {tag!r}; take {offered}")
    elif name not in get_encoder_names():
        near = did_you_mean(name, get_encoder_names(), 3)
        raise UserError(f"model.encoder: no encoder {name!r}{near}; any timm model is tu-<name>")
