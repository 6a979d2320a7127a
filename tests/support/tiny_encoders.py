"""Small members of encoder families that have none in timm. Importing this adds them to timm."""

from typing import Any

from timm.models import register_model
from timm.models.eva import (
    Eva,
    eva02_tiny_patch14_224,
    vit_pe_spatial_tiny_patch16_512,
    vit_small_patch16_dinov3,
    vit_small_patch16_lingbot,
    vit_small_patch16_rope_mixed_ape_224,
)
from timm.models.hrnet import HighResolutionNet, hrnet_w18_small
from timm.models.swin_transformer import SwinTransformer, swin_tiny_patch4_window7_224
from timm.models.vision_transformer import VisionTransformer, vit_small_patch14_reg4_dinov2
from timm.models.vision_transformer_sam import VisionTransformerSAM, samvit_base_patch16
from timm.models.xcit import Xcit, xcit_nano_12_p16_224

SMALL = {"embed_dim": 64, "depth": 4, "num_heads": 2}


@register_model
def hrnet_test(pretrained: bool = False, **options: Any) -> HighResolutionNet:
    """Every branch one block deep; 8, 16, 32, 64 channels."""
    stages = {
        f"stage{branches}": {
            "num_modules": 1,
            "num_branches": branches,
            "block_type": "BASIC",
            "num_blocks": (1,) * branches,
            "num_channels": (8, 16, 32, 64)[:branches],
            "fuse_method": "SUM",
        }
        for branches in (1, 2, 3, 4)
    }
    return hrnet_w18_small(pretrained, **stages, **options)


@register_model
def swin_test(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """Windows of 7, one of its five blocks shifted; 16, 32, 64, 128 channels."""
    size = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
    return swin_tiny_patch4_window7_224(pretrained, **(size | options))


@register_model
def dinov2_test(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Patches of 14, four registers, a position table for 37 x 37 patches without entries for prefix tokens."""
    return vit_small_patch14_reg4_dinov2(pretrained, **(SMALL | options))


@register_model
def dinov3_test(pretrained: bool = False, **options: Any) -> Eva:
    """Patches of 16, four registers, rotary positions, no position table."""
    return vit_small_patch16_dinov3(pretrained, **(SMALL | options))


@register_model
def lingbot_test(pretrained: bool = False, **options: Any) -> Eva:
    """LingBot-Vision: as DINOv3, with biases of its own in the attention."""
    return vit_small_patch16_lingbot(pretrained, **(SMALL | options))


@register_model
def pe_spatial_test(pretrained: bool = False, **options: Any) -> Eva:
    """Perception Encoder: a position table and rotary positions, no final norm."""
    return vit_pe_spatial_tiny_patch16_512(pretrained, **(SMALL | options))


@register_model
def eva02_test(pretrained: bool = False, **options: Any) -> Eva:
    """Patches of 14, rotary positions scaled to those of the pretraining, SwiGLU."""
    return eva02_tiny_patch14_224(pretrained, **(SMALL | options))


@register_model
def rope_mixed_test(pretrained: bool = False, **options: Any) -> Eva:
    """Rotations that are learned, and differ from block to block."""
    return vit_small_patch16_rope_mixed_ape_224(pretrained, **(SMALL | options))


@register_model
def sam_test(pretrained: bool = False, **options: Any) -> VisionTransformerSAM:
    """Windows of 3 patches, one block of global attention, relative positions for 8 x 8 patches."""
    size = {"img_size": 128, "window_size": 3, "global_attn_indexes": (2,), "neck_chans": 16}
    return samvit_base_patch16(pretrained, **(SMALL | size | options))


@register_model
def xcit_test(pretrained: bool = False, **options: Any) -> Xcit:
    """Read through timm's own `forward_intermediates`."""
    return xcit_nano_12_p16_224(pretrained, **(SMALL | options))
