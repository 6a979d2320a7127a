"""Maps of networks by name, and the same map of student and teacher on one grid."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.losses.pseudo_label import at_least_float32

MapName = Literal["decoder", "logits"] | int
"""An encoder stage (index into `Features.stages`, -1 = the deepest), what the classifier reads, or its logits."""

Pairs = Mapping[MapName, tuple[Tensor, Tensor]]
"""Map name -> (student's `[B, C_s, h, w]`, teacher's `[B, C_t, h, w]` without gradient), of the same images."""


def take(features: Features, name: MapName) -> Tensor:
    """The map itself, `[B, C, h, w]`."""
    if isinstance(name, int):
        return features.stages[name]
    return features.decoder if name == "decoder" else features.logits


def width(network: SegmentationNetwork, name: MapName, key: str) -> int:
    """Its channels. UserError, which begins with `key`, where the encoder has no such stage."""
    if not isinstance(name, int):
        return network.decoder_channels if name == "decoder" else network.spec.num_classes
    stages = network.stage_channels
    if not -len(stages) <= name < len(stages):
        raise UserError(f"{key} {network.spec.encoder} has stages {-len(stages)} to {len(stages) - 1}, not {name}")
    return stages[name]


def padded_size(network: SegmentationNetwork, images: Tensor) -> tuple[int, int]:
    """Height and width in pixels that the network's maps of `images [B, 3, H, W]` cover."""
    height, width = (side + -side % network.stride for side in images.shape[2:])
    return height, width


def on_grid(feature: Tensor, covers: tuple[int, int], grid: tuple[int, int], extent: tuple[int, int]) -> Tensor:
    """Bilinear (align_corners False) from one grid over an image to another, pixel for pixel at the same place.

    Networks of different strides pad an image differently, so two grids need not end at the same pixel: both begin top
    left, and past its end a map is continued with its border.

    Args:
        feature: `[B, C, h, w]`; returned as it is where nothing changes.
        covers: height and width in pixels that it covers.
        grid: rows and columns that are wanted.
        extent: height and width in pixels that they shall cover.
    """
    if feature.shape[2:] == grid and covers == extent:
        return feature
    rows, columns = extent[0] / covers[0], extent[1] / covers[1]
    theta = torch.tensor([[columns, 0, columns - 1], [0, rows, rows - 1]], device=feature.device)
    places = functional.affine_grid(theta.expand(len(feature), 2, 3), [len(feature), 1, *grid], align_corners=False)
    with torch.autocast(feature.device.type, enabled=False):
        feature = at_least_float32(feature)
        return functional.grid_sample(feature, places.to(feature.dtype), padding_mode="border", align_corners=False)
