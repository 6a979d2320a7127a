"""SegFormer's encoder (MiT, of segmentation_models_pytorch) with an additive attention bias, for S4Former's PASA.

The bias acts in stage 4 alone, the one stage whose keys are not thinned out: there an entry stands for a cell of the
deepest map, 32x32 pixels.
"""

from typing import Any

from segmentation_models_pytorch.encoders.mix_transformer import MixVisionTransformerEncoder
from torch import Tensor
from torch.nn import functional


def biased_maps(encoder: MixVisionTransformerEncoder, images: Tensor, attention_bias: Tensor) -> list[Tensor]:
    """What `encoder(images)` gives, with `attention_bias` `[B, N, N]` added to `Q K^T / sqrt(d)` in stage 4.

    N = cells of the deepest map, row by row; all blocks and heads of the stage share the bias.
    """
    batch, _, height, width = images.shape
    maps = [images, images.new_empty(batch, 0, height // 2, width // 2)]  # no map at stride 2
    for embed, blocks, norm in (
        (encoder.patch_embed1, encoder.block1, encoder.norm1),
        (encoder.patch_embed2, encoder.block2, encoder.norm2),
        (encoder.patch_embed3, encoder.block3, encoder.norm3),
    ):
        images = norm(blocks(embed(images))).contiguous()
        maps.append(images)
    deepest = encoder.patch_embed4(images)
    height, width = deepest.shape[2:]
    tokens = deepest.flatten(2).transpose(1, 2)  # [B, N, C]
    for block in encoder.block4:
        tokens = tokens + block.drop_path(_attention(block.attn, block.norm1(tokens), attention_bias))
        tokens = tokens + block.drop_path(block.mlp(block.norm2(tokens), height, width))
    maps.append(encoder.norm4(tokens.transpose(1, 2).reshape(batch, -1, height, width)).contiguous())
    return maps


def _attention(layer: Any, tokens: Tensor, bias: Tensor) -> Tensor:
    """An attention layer with sr_ratio 1, by way of its own projections: `[B, N, C]` -> `[B, N, C]`."""
    batch, count, channels = tokens.shape
    queries = layer.q(tokens).reshape(batch, count, layer.num_heads, -1).transpose(1, 2)
    keys, values = layer.kv(tokens).reshape(batch, count, 2, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=bias.unsqueeze(1).to(queries.dtype),
        dropout_p=layer.attn_drop.p if layer.training else 0.0,
        scale=layer.scale,
    )
    return layer.proj_drop(layer.proj(mixed.transpose(1, 2).reshape(batch, count, channels)))
