"""Encoders by name: those of segmentation_models_pytorch, and any of timm as "tu-<name>"."""

from collections.abc import Callable
from typing import Any

import timm
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from timm.models import is_model_in_modules

from semseg_app.errors import UserError, did_you_mean
from semseg_app.models.swin import SwinEncoder
from semseg_app.models.vision_transformer import Readout, VisionTransformerEncoder
from semseg_app.models.weights import fetched


def pyramid_encoder(name: str, architecture: str, stride: int, weights: str | None) -> Any:
    """An encoder whose maps shrink from stage to stage down to `stride`; for everything but plain transformers."""
    _refuse_unknown(name)
    if _is_plain_transformer(name):
        raise UserError(
            f"model.encoder: {architecture} needs maps of several sizes, and the plain vision transformer {name} gives "
            "one; take model.architecture setr or dpt"
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


def transformer_encoder(
    name: str, architecture: str, readout: Readout, weights: str | None
) -> VisionTransformerEncoder:
    """A plain vision transformer (ViT, DeiT, DINOv2) of timm."""
    _refuse_unknown(name)
    if not _is_plain_transformer(name):
        raise UserError(
            f"model.encoder: {architecture} needs a plain vision transformer of timm, such as "
            f"tu-deit_base_patch16_224, not {name}"
        )

    def make(pretrained: bool) -> VisionTransformerEncoder:
        model: Any = timm.create_model(
            name.removeprefix("tu-"), pretrained=pretrained, num_classes=0, dynamic_img_size=True
        )
        return VisionTransformerEncoder(model, readout)

    return _with_weights(name, weights is not None, lambda some: make(bool(some)))


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
    return name.startswith("tu-") and is_model_in_modules(name.removeprefix("tu-"), ["vision_transformer", "deit"])


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
