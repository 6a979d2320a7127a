"""Plain vision transformers of timm as encoders: maps of one size, from images whose sides the patch divides.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021: ViT, DeiT, DINOv2 and their kin; and timm's `Eva`, which adds
rotary positions: DINOv3, LingBot, PE-spatial, EVA, EVA-02 and RoPE ViTs. The weights and layers are timm's, the walk
through them is ours, for three reasons. timm resizes position tables bicubically with antialiasing, which does not
export; here the table keeps its pretrained size as a parameter and is resized bilinearly to the image's grid in every
pass, which changes nothing at its native size. The walk also takes an additive attention bias, for S4Former's PASA, and
carries register tokens along.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional


class Readout(NamedTuple):
    """What a decoder reads."""

    layers: tuple[int, ...]
    """Blocks of a transformer of depth 12, from 0; other depths take those at the same relative depth."""
    normalize: bool
    """Whether the transformer's own final norm is put on every map."""

    of_24: tuple[int, ...] | None = None
    """Those of a transformer of depth 24 (ViT-L), where its paper does not take the same relative depth."""

    def of_depth(self, depth: int) -> list[int]:
        """The blocks, from 0, of a transformer of `depth` blocks."""
        if depth == 24 and self.of_24 is not None:
            return list(self.of_24)
        return [-(-(layer + 1) * depth // 12) - 1 for layer in self.layers]


class VisionTransformerEncoder(nn.Module):
    """Image -> list of maps, the image itself first, the others `[B, D, H / patch, W / patch]`.

    Args:
        model: built with `dynamic_img_size=True`. The layers that no map needs (classifier, pooling) are removed.
            ValueError where it has neither a position table nor rotary positions, or a stem of convolutions.
        readout: which blocks give a map.

    Attributes:
        patch: side of a patch in pixels; it must divide H and W.
        class_token: whether the first token is a class token.
        out_channels: channels of each map in the list.
        layers: the blocks that give a map, from 0.
    """

    def __init__(self, model: VisionTransformer | Eva, readout: Readout):
        super().__init__()
        rotary = isinstance(model, Eva) and model.rope is not None
        if model.pos_embed is None and not rotary:
            raise ValueError("it has no position table")
        if not isinstance(model.patch_embed, PatchEmbed):
            raise ValueError("its patches come from a stem of convolutions")
        self.layers: list[int] = readout.of_depth(len(model.blocks))
        # Models that pool before the norm keep its weights elsewhere.
        norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
        model.prune_intermediate_layers(self.layers, prune_norm=True, prune_head=True)
        self.model: Any = model
        self.norm = norm if readout.normalize else nn.Identity()
        self.rotary = rotary
        self.patch: int = model.patch_embed.patch_size[0]
        self.class_token: bool = model.cls_token is not None
        self.out_channels = [3] + [model.embed_dim] * len(self.layers)

    def resize_position_table(self, side: int) -> None:
        """Make the table one of `side` x `side` patches, bilinearly; entries of prefix tokens stay as they were."""
        rows, columns = self.model.patch_embed.grid_size
        table = resized_table(self.model.pos_embed.detach(), (rows, columns), (side, side))
        self.model.pos_embed = nn.Parameter(table)
        self.model.patch_embed.grid_size = (side, side)

    def with_tables_of_its_grid(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this model whose position table, of any square grid, is brought to this encoder's."""
        fitted = dict(state)
        own, (rows, columns) = self.model.pos_embed, self.model.patch_embed.grid_size
        prefix = own.shape[1] - rows * columns
        for name, tensor in state.items():
            if name.endswith("pos_embed") and tensor.ndim == 3 and tensor.shape[1] > prefix:
                side = math.isqrt(tensor.shape[1] - prefix)
                if side**2 == tensor.shape[1] - prefix:
                    fitted[name] = resized_table(tensor, (side, side), (rows, columns))
        return fitted

    def forward(self, images: Tensor, attention_bias: Tensor | None = None) -> list[Tensor]:
        """`[B, 3, H, W]` -> maps.

        `attention_bias` is added to `Q K^T / sqrt(d)` in every layer and head: `[B, 1 + N, 1 + N]`, N = patches row by
        row, entry 0 = the class token; `[B, N, N]` for a model without one. Register tokens, which some models have
        between the two, get 0.
        """
        patches = self.model.patch_embed(images)  # [B, h, w, D]
        batch, height, width = patches.shape[:3]
        tokens = self._with_prefix_and_position(patches)
        mask = None if attention_bias is None else self._mask(attention_bias, tokens)
        rotations = self._rotations(height, width) if self.rotary else None
        outputs = {}
        for layer, block in enumerate(self.model.blocks):
            if rotations is None:
                tokens = block(tokens, attn_mask=mask)
            else:
                # Mixed rotations differ from block to block.
                tokens = block(tokens, rope=rotations[layer] if self.model.rope_mixed else rotations, attn_mask=mask)
            if layer in self.layers:
                outputs[layer] = tokens
        maps = [images]
        for layer in self.layers:
            kept = self.norm(outputs[layer])[:, self.model.num_prefix_tokens :]
            maps.append(kept.transpose(1, 2).reshape(batch, -1, height, width))
        return maps

    def _rotations(self, height: int, width: int) -> Tensor:
        """Sines and cosines of every patch of the grid, as timm's blocks take them."""
        rope = self.model.rope
        drawn = self.training and isinstance(rope, RotaryEmbeddingDinoV3) and rope.aug_active
        if not isinstance(rope, RotaryEmbeddingDinoV3) or rope.normalize_coords != "separate" or drawn:
            return rope.get_embed(shape=[height, width])
        # timm divides by float(side), which makes an exporter take the traced size for a constant (timm 1.0.31).
        device: Any = rope.periods.device
        rows, columns = (
            2 * (torch.arange(side, device=device) + 0.5 + rope.grid_offset) / side - 1 for side in (height, width)
        )
        grid = [rows.unsqueeze(1).expand(height, width), columns.unsqueeze(0).expand(height, width)]
        if rope.grid_indexing == "xy":
            grid.reverse()
        sines, cosines = rope._get_pos_embed_from_coords(torch.stack(grid, dim=-1).flatten(0, 1))
        return torch.cat([sines, cosines], dim=-1)

    def _with_prefix_and_position(self, patches: Tensor) -> Tensor:
        """`[B, h, w, D]` -> `[B, prefix + h w, D]`."""
        model = self.model
        batch, height, width, channels = patches.shape
        tokens = patches.flatten(1, 2)
        split = 0
        if model.pos_embed is not None:
            rows, columns = model.patch_embed.grid_size
            # The table begins with entries for all prefix tokens, or has none for them (DeiT III, DINOv2 with
            # registers).
            split = model.pos_embed.shape[1] - rows * columns
            table = model.pos_embed[:, split:].reshape(1, rows, columns, channels).permute(0, 3, 1, 2)
            table = functional.interpolate(table, size=(height, width), mode="bilinear", align_corners=False)
            tokens = tokens + table.flatten(2).transpose(1, 2)
        owned = (
            model.cls_token,
            model.reg_token,
            model.dist_token if isinstance(model, VisionTransformerDistilled) else None,
        )
        prefix = [token.expand(batch, -1, -1) for token in owned if token is not None]
        if prefix:
            first = torch.cat(prefix, dim=1)
            tokens = torch.cat([first + model.pos_embed[:, :split] if split else first, tokens], dim=1)
        return model.norm_pre(tokens)

    def _mask(self, bias: Tensor, tokens: Tensor) -> Tensor:
        """What scaled_dot_product_attention adds, `[B, 1, T, T]`, in the type that attention runs in."""
        own = int(self.class_token)
        others = self.model.num_prefix_tokens - own
        if others:
            rows = bias.new_zeros(bias.shape[0], others, bias.shape[2])
            bias = torch.cat([bias[:, :own], rows, bias[:, own:]], dim=1)
            columns = bias.new_zeros(bias.shape[0], bias.shape[1], others)
            bias = torch.cat([bias[:, :, :own], columns, bias[:, :, own:]], dim=2)
        kind = tokens.device.type
        autocast = torch.is_autocast_enabled(kind)
        return bias.unsqueeze(1).to(torch.get_autocast_dtype(kind) if autocast else tokens.dtype)


def resized_table(table: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A position table `[1, prefix + rows * columns, D]` of one grid of patches, bilinearly brought to another."""
    split = table.shape[1] - grid[0] * grid[1]
    prefix, patches = table[:, :split], table[:, split:]
    maps = patches.reshape(1, *grid, -1).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)
