"""A plain vision transformer of timm as an encoder: four maps of one size, from images whose sides its patch divides.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021. The position table keeps its pretrained size as a parameter
and is resized bilinearly to the image's grid in every pass (timm's own resizing, bicubic and antialiased, does not
export); at its native size that leaves it unchanged. Attention takes an additive bias, for S4Former's PASA.
"""

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional


class Readout(NamedTuple):
    """What a decoder reads."""

    layers: tuple[int, ...]
    """Blocks of a transformer of depth 12, from 0; other depths take those that lie as deep."""
    normalize: bool
    """Whether the transformer's own final norm is put on every map."""


class VisionTransformerEncoder(nn.Module):
    """Image -> list of maps, the image itself first, the others `[B, D, H / patch, W / patch]`.

    Args:
        model: built with `dynamic_img_size=True`. What no map needs (classifier, pooling) is taken off. ValueError when
            it has no position table.
        readout: which blocks give a map.

    Attributes:
        patch: side of a patch in pixels; it must divide H and W.
        class_token: whether the first token is a class token.
        out_channels: of the list.
    """

    def __init__(self, model: VisionTransformer, readout: Readout):
        super().__init__()
        if model.pos_embed is None:
            raise ValueError("it has no position table")
        depth = len(model.blocks)
        self.layers = [-(-(layer + 1) * depth // 12) - 1 for layer in readout.layers]
        # Models that pool before the norm keep its weights elsewhere.
        norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
        model.prune_intermediate_layers(self.layers, prune_norm=True, prune_head=True)
        self.model: Any = model
        self.norm = norm if readout.normalize else nn.Identity()
        self.patch: int = model.patch_embed.patch_size[0]
        self.class_token: bool = model.cls_token is not None
        self.out_channels = [3] + [model.embed_dim] * len(self.layers)

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
        outputs = {}
        for layer, block in enumerate(self.model.blocks):
            tokens = block(tokens, attn_mask=mask)
            if layer in self.layers:
                outputs[layer] = tokens
        maps = [images]
        for layer in self.layers:
            kept = self.norm(outputs[layer])[:, self.model.num_prefix_tokens :]
            maps.append(kept.transpose(1, 2).reshape(batch, -1, height, width))
        return maps

    def _with_prefix_and_position(self, patches: Tensor) -> Tensor:
        """`[B, h, w, D]` -> `[B, prefix + h w, D]`."""
        model = self.model
        batch, height, width, channels = patches.shape
        rows, columns = model.patch_embed.grid_size
        # The table begins with entries for all prefix tokens, or has none for them (DeiT III, DINOv2 with registers).
        split = model.pos_embed.shape[1] - rows * columns
        table = model.pos_embed[:, split:].reshape(1, rows, columns, channels).permute(0, 3, 1, 2)
        table = functional.interpolate(table, size=(height, width), mode="bilinear", align_corners=False)
        tokens = patches.flatten(1, 2) + table.flatten(2).transpose(1, 2)
        owned = (model.cls_token, model.reg_token, getattr(model, "dist_token", None))
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
