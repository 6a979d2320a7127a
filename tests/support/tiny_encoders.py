"""Small members of encoder families that have none in timm. Importing this adds hrnet_test and swin_test to timm."""

from typing import Any

from timm.models import register_model
from timm.models.hrnet import HighResolutionNet, hrnet_w18_small
from timm.models.swin_transformer import SwinTransformer, swin_tiny_patch4_window7_224


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
