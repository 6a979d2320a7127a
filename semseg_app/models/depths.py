"""How deep each parameter of an encoder lies: what freezing some stages and layer-wise learning rates go by."""

import copy
import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from semseg_app.models.network import SegmentationNetwork
from semseg_app.models.sam import SAMEncoder
from semseg_app.models.vision_transformer import VisionTransformerEncoder


class Depth(NamedTuple):
    """Where a parameter of an encoder lies."""

    stage: int
    """The first of `Features.stages` that it takes part in."""
    layer: int
    """Its layer for layer-wise learning rates, from 0; `layers` says how many there are."""


class Depths(NamedTuple):
    """All parameters of an encoder."""

    of: dict[str, Depth]
    """By their names in the encoder."""
    stages: int
    layers: int


def encoder_depths(network: SegmentationNetwork) -> Depths:
    """The depths of an encoder's parameters.

    A vision transformer's layers are, as in timm: 0 = patches, tokens and positions, then a layer for each block, the
    last with the final norm, and the decoder above them. Its stages end at the blocks that the decoder reads. The
    layers of all other encoders are their stages, with the decoder as the layer above them.
    """
    encoder = network.encoder
    if isinstance(encoder, VisionTransformerEncoder | SAMEncoder):
        blocks = len(encoder.model.blocks)
        of = {name: _in_transformer(name, encoder.layers, blocks) for name, _ in encoder.named_parameters()}
        return Depths(of, len(encoder.layers), blocks + 2)
    by_stage = _first_stages(encoder, network.deepest_stride)
    stages = len(network.stage_channels)
    return Depths({name: Depth(stage, stage) for name, stage in by_stage.items()}, stages, stages + 1)


def _in_transformer(name: str, layers: list[int], blocks: int) -> Depth:
    if match := re.search(r"\bblocks\.(\d+)\.", name):
        block = int(match[1])
        return Depth(sum(last < block for last in layers), block + 1)
    if re.match(r"(model\.)?(fc_)?norm\.", name):
        return Depth(len(layers) - 1, blocks)
    return Depth(0, 0)


def _first_stages(encoder: nn.Module, stride: int) -> dict[str, int]:
    """For each parameter the first stage that depends on it, as autograd tells on a device without memory."""
    bare = copy.deepcopy(encoder).to("meta").eval().requires_grad_(True)
    maps: list[Tensor] = bare(torch.empty(1, 3, 2 * stride, 2 * stride, device="meta"))
    stages = [stage for stage in maps[1:] if stage.shape[1] > 0]
    parameters = dict(bare.named_parameters())
    found: dict[str, int] = {}
    for index, stage in enumerate(stages):
        left = {name: parameter for name, parameter in parameters.items() if name not in found}
        if left and stage.requires_grad:
            gradients = torch.autograd.grad(stage.sum(), list(left.values()), retain_graph=True, allow_unused=True)
            found |= {name: index for name, gradient in zip(left, gradients, strict=True) if gradient is not None}
    return {name: found.get(name, len(stages) - 1) for name in parameters}
