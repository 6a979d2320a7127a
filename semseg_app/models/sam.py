"""Segment Anything's image encoder (timm's ViT-SAM): windows, some blocks of global attention, relative positions.

Kirillov et al., "Segment Anything", 2023; the architecture is ViTDet's (Li et al., 2022). The weights and layers are
timm's; the walk through them is ours, because timm's attention does not export with free sizes. The position table and
the tables of relative positions are resized (bi)linearly to the image's grid, which changes nothing at the native size.
The convolutions behind the last block ("neck") serve SAM's mask decoder and are left out.
"""

from typing import Any

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models.vision_transformer import Readout


class SAMEncoder(nn.Module):
    """Image -> list of maps, the image itself first, the others `[B, D, H / patch, W / patch]`, without a final norm.

    Args:
        model: its neck and classifier are removed. ValueError for a variant with rotary positions.
        readout: which blocks give a map; SAM has no norm to put on them.

    Attributes:
        patch: side of a patch in pixels; it must divide H and W.
        out_channels: channels of each map in the list.
        layers: the blocks that give a map, from 0.
    """

    def __init__(self, model: VisionTransformerSAM, readout: Readout):
        super().__init__()
        if model.rope_global is not None:
            raise ValueError("its rotary positions are for images of one size")
        self.layers: list[int] = readout.of_depth(len(model.blocks))
        model.prune_intermediate_layers(self.layers, prune_norm=True, prune_head=True)
        self.model: Any = model
        self.patch: int = model.patch_embed.patch_size[0]
        self.out_channels = [3] + [model.embed_dim] * len(self.layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> maps."""
        tokens = self.model.patch_embed(images)  # [B, h, w, D]
        if self.model.pos_embed is not None:
            table = self.model.pos_embed.permute(0, 3, 1, 2)
            table = functional.interpolate(table, size=tokens.shape[1:3], mode="bilinear", align_corners=False)
            tokens = tokens + table.permute(0, 2, 3, 1)
        tokens = self.model.norm_pre(tokens)
        maps = [images]
        for layer, block in enumerate(self.model.blocks):
            attended = _attend(block, block.norm1(tokens))
            tokens = tokens + block.drop_path1(block.ls1(attended))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            if layer in self.layers:
                maps.append(tokens.permute(0, 3, 1, 2).contiguous())
        return maps


def _attend(block: Any, tokens: Tensor) -> Tensor:
    """A block's attention, in its windows or over the whole map: `[B, h, w, D]` -> the same shape."""
    window: int = block.window_size
    if not window:
        return _attention(block.attn, tokens)
    batch, height, width, channels = tokens.shape
    # Not -(-height // window): the exported division rounds toward zero.
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    padded = functional.pad(tokens, (0, 0, 0, columns * window - width, 0, rows * window - height))
    windows = padded.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
    mixed = _attention(block.attn, windows.reshape(batch * rows * columns, window, window, channels))
    grid = mixed.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return grid.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]


def _attention(layer: Any, tokens: Tensor) -> Tensor:
    """Attention with decomposed relative positions: `[B, h, w, D]` -> the same shape."""
    batch, height, width, channels = tokens.shape
    qkv = layer.qkv(tokens.flatten(1, 2)).unflatten(2, (3, layer.num_heads, -1))  # [B, h w, 3, heads, d]
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, h w, d]
    queries, keys = layer.q_norm(queries), layer.k_norm(keys)
    bias = None
    if layer.use_rel_pos:
        grid = queries.reshape(batch, layer.num_heads, height, width, -1)
        vertical = torch.einsum("bnhwd,hkd->bnhwk", grid, _relative(layer.rel_pos_h, height))
        horizontal = torch.einsum("bnhwd,wkd->bnhwk", grid, _relative(layer.rel_pos_w, width))
        bias = (vertical.unsqueeze(5) + horizontal.unsqueeze(4)).reshape(
            batch, layer.num_heads, height * width, height * width
        )
    dropout = layer.attn_drop.p if layer.training else 0.0
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropout)
    mixed = layer.proj_drop(layer.proj(mixed.transpose(1, 2).flatten(2)))
    return mixed.reshape(batch, height, width, channels)


def _relative(table: Tensor, side: int) -> Tensor:
    """A table `[L, d]` of relative positions -> `[side, side, d]`: for each query position, one entry for each key."""
    resized = functional.interpolate(
        table.T[None, :, :, None], size=(2 * side - 1, 1), mode="bilinear", align_corners=False
    )[0, :, :, 0].T
    positions = torch.arange(side, device=table.device)
    return resized[positions.unsqueeze(1) - positions.unsqueeze(0) + side - 1]
