"""Multi-grid: the dilations of a ResNet's last stage grow from block to block.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3; in AugSeg's and U2PL's
ResNets (augseg/models/resnet.py) with the factors 2, 2, 4.
"""

from collections.abc import Sequence

from torch import nn

from semseg_app.errors import UserError

LAST_STAGE = "layer4"


def widen_last_stage(encoder: nn.Module, name: str, factors: Sequence[int]) -> None:
    """Multiply the dilations of the last stage, block by block, in place. UserError for another encoder than a ResNet.

    Only the 3x3 convolutions of the blocks change: they keep their strides and their output sizes.
    """
    stages = [module for path, module in encoder.named_modules() if path.split(".")[-1] == LAST_STAGE]
    blocks = list(stages[0].children()) if stages else []
    if len(blocks) != len(factors):
        raise UserError(
            f"model.multi_grid: {name} has no last stage of {len(factors)} blocks; take a ResNet of 50 or more layers, "
            "or leave multi_grid out"
        )
    for block, factor in zip(blocks, factors, strict=True):
        for convolution in block.modules():
            if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3):
                wide = convolution.dilation[0] * factor
                convolution.dilation, convolution.padding = (wide, wide), (wide, wide)
