"""Mean and standard deviation of the inputs that pretrained weights expect, from the weights' own configuration.

Inputs normalized otherwise are wrong in silence: timm's augreg ViTs, BEiT, SigLIP and TensorFlow EfficientNets were
trained on (x - 0.5) / 0.5, CLIP's encoders on figures of their own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from segmentation_models_pytorch.encoders import encoders, get_preprocessing_params
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from semseg_app.errors import UserError

Color = tuple[float, float, float]


class Normalization(NamedTuple):
    """What a network does to RGB in [0, 1]: (image - mean) / std."""

    mean: Color
    std: Color
    source: str
    """Whose figures these are, for messages."""

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}; std {std} ({self.source})"


IMAGENET = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "ImageNet's")


def published_normalization(encoder: str, weights: str) -> Normalization:
    """What the weights of an encoder expect, by their publisher's configuration.

    Args:
        encoder: "tu-<timm's name>", or one of segmentation_models_pytorch, whose configuration lies on the Hub.
        weights: "imagenet" or another set of segmentation_models_pytorch.

    Raises:
        OSError, RuntimeError: as `huggingface_hub` raises them, where the Hub cannot be reached.
        UserError: where the weights expect what a network here cannot do.
    """
    if encoder.startswith("tu-"):
        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is None:
            return IMAGENET
        return Normalization(_three(config.mean), _three(config.std), "timm's configuration of these weights")
    if encoder not in encoders:  # pidnet's own
        return IMAGENET
    return _from_settings(get_preprocessing_params(encoder, weights), encoder, "their configuration on the Hub")


def file_normalization(path: Path, encoder: str) -> Normalization:
    """What a file of weights expects: by the config.json beside it (timm's or SMP's), else a guess.

    The guess is timm's configuration for a "tu-" encoder and ImageNet's figures for others; its source says so.
    """
    config = read_config_beside(path)
    settings = config.get("pretrained_cfg", config)
    if isinstance(settings, dict) and "mean" in settings and "std" in settings:
        return _from_settings(settings, encoder, f"{path.with_name('config.json')}")
    if encoder.startswith("tu-"):
        return published_normalization(encoder, "imagenet")._replace(
            source="timm's default for this encoder; a state dict does not name its own"
        )
    return IMAGENET._replace(source="ImageNet's; a state dict does not name its own")


def read_config_beside(path: Path) -> dict[str, Any]:
    """The config.json in the folder of a file of weights; empty where there is no readable one."""
    try:
        config = json.loads(path.with_name("config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _from_settings(settings: Mapping[str, Any], encoder: str, source: str) -> Normalization:
    if settings.get("input_space", "RGB") != "RGB":
        raise UserError(
            f"model.weights: the weights of {encoder} expect {settings['input_space']} images, and networks here read "
            "RGB; choose other weights"
        )
    largest = float((settings.get("input_range") or (0, 1))[1])  # the figures are for pixels in [0, largest]
    mean, std = (tuple(value / largest for value in _three(settings[key])) for key in ("mean", "std"))
    return Normalization(_three(mean), _three(std), source)


def _three(values: Any) -> Color:
    """One value per color; weights for gray images have one in all."""
    red, green, blue = (float(value) for value in (values if len(values) == 3 else (values[0],) * 3))
    return red, green, blue
