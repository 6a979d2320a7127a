"""Swin transformers of timm as encoders of images of any size, in a form that exports with free sizes.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021. The weights and layers
are timm's; the walk through them is ours, because timm's works out window counts in ways that an exporter cannot follow
for sizes other than the traced one. Windows keep their size, and maps are padded to whole windows (as in the published
segmentation code; timm's `always_partition`).
"""

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

MASKED = -100.0
"""Added to the attention between pixels that the cyclic shift has made neighbors."""


class SwinEncoder(nn.Module):
    """Image with sides that 32 divides -> [image, empty map, maps at strides 4, 8, 16, 32], `[B, C, h, w]` each.

    The empty map stands for stride 2, as in segmentation_models_pytorch. Maps are the stages' bare outputs: UPerNet's
    decoder begins with a LayerNorm for each.

    Args:
        model: built with `strict_img_size=False` and `always_partition=True`; its classifier and last norm are dropped.
    """

    def __init__(self, model: SwinTransformer):
        super().__init__()
        stages = len(model.layers)
        self.out_channels = [3, 0, *(int(info["num_chs"]) for info in model.feature_info)]
        model.prune_intermediate_layers(list(range(stages)), prune_norm=True, prune_head=True)
        self.model: Any = model

    def forward(self, image: Tensor) -> list[Tensor]:
        batch, _, height, width = image.shape
        maps = [image, image.new_empty(batch, 0, height // 2, width // 2)]
        tokens = self.model.patch_embed(image)  # [B, h, w, C]
        for stage in self.model.layers:
            if not isinstance(stage.downsample, nn.Identity):
                tokens = _merge(stage.downsample, tokens)
            for block in stage.blocks:
                tokens = tokens + block.drop_path1(_attend(block, block.norm1(tokens)))
                tokens = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
            maps.append(tokens.permute(0, 3, 1, 2).contiguous())
        return maps


def _merge(layer: Any, tokens: Tensor) -> Tensor:
    """timm's PatchMerging for even sides: every 2x2 tokens become one."""
    batch, height, width, channels = tokens.shape
    squares = tokens.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return layer.reduction(layer.norm(squares.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def _attend(block: SwinTransformerBlock, tokens: Tensor) -> Tensor:
    """Attention within the windows of a block, shifted or not: `[B, h, w, C]` -> the same shape."""
    batch, height, width, channels = tokens.shape
    (window_height, window_width), (down, right) = block.window_size, block.shift_size
    # Not -(-height // window): the exported division rounds toward zero.
    rows, columns = (height + window_height - 1) // window_height, (width + window_width - 1) // window_width
    shifted = torch.roll(tokens, (-down, -right), (1, 2)) if down or right else tokens
    padded = functional.pad(shifted, (0, 0, 0, columns * window_width - width, 0, rows * window_height - height))
    windows = padded.reshape(batch, rows, window_height, columns, window_width, channels).transpose(2, 3)
    windows = windows.reshape(batch, rows * columns, window_height * window_width, channels)

    layer = block.attn
    qkv = layer.qkv(windows).unflatten(3, (3, layer.num_heads, -1))  # [B, windows, tokens, 3, heads, d]
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # [B, windows, heads, tokens, d]
    attention = (query * layer.scale) @ key.mT + layer._get_rel_pos_bias()
    if down or right:
        row_part = _parts(rows, window_height, down, tokens)
        column_part = _parts(columns, window_width, right, tokens)
        part = (3 * row_part.view(rows, 1, window_height, 1) + column_part.view(1, columns, 1, window_width)).reshape(
            rows * columns, 1, window_height * window_width
        )
        apart = part.unsqueeze(2) != part.unsqueeze(3)  # [windows, 1, tokens, tokens]
        attention = attention + MASKED * apart.to(attention.dtype)
    mixed = layer.attn_drop(attention.softmax(dim=4)) @ value
    mixed = layer.proj_drop(layer.proj(mixed.transpose(2, 3).flatten(3)))

    grid = mixed.reshape(batch, rows, columns, window_height, window_width, channels).transpose(2, 3)
    whole = grid.reshape(batch, rows * window_height, columns * window_width, channels)[:, :height, :width]
    return torch.roll(whole, (down, right), (1, 2)) if down or right else whole


def _parts(windows: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Along one side, `[windows * window]`: 0 before the last window, in it 1, and 2 for what was shifted in."""
    length = windows * window
    position = torch.arange(length, device=like.device)
    return (position >= length - window).long() + (position >= length - shift).long()
