"""Any other encoder of timm whose blocks all give maps of one size, read through timm's `forward_intermediates`.

Such as XCiT, NaFlexViT, and the vision towers of DeepSeek-VL and Qwen3-VL. The families whose walk is our own, because
timm's does not export or takes no attention bias, are in vision_transformer.py and sam.py.
"""

from typing import Any

from torch import Tensor, nn

from semseg_app.models.vision_transformer import Readout


class IntermediateMapsEncoder(nn.Module):
    """Image -> list of maps, the image itself first, the others `[B, D, H / patch, W / patch]`.

    Args:
        model: any model of timm with `forward_intermediates`. The layers that no map needs are removed. ValueError
            where its blocks do not all give maps of one size, or it is built for images of one size only.
        readout: which blocks give a map.

    Attributes:
        patch: side of a patch in pixels; it must divide H and W.
        out_channels: channels of each map in the list.
        layers: the blocks that give a map, from 0.
    """

    def __init__(self, model: Any, readout: Readout):
        super().__init__()
        info = model.feature_info
        if len({(stage["num_chs"], stage["reduction"]) for stage in info}) != 1:
            raise ValueError("its maps are of several sizes")
        self.layers = readout.of_depth(len(info))
        self.normalize = readout.normalize
        model.prune_intermediate_layers(self.layers, prune_norm=not readout.normalize, prune_head=True)
        self.model: Any = model
        reduction = info[0]["reduction"]
        self.patch: int = reduction if isinstance(reduction, int) else reduction[0]
        self.out_channels = [3] + [info[0]["num_chs"]] * len(self.layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> maps."""
        maps = self.model.forward_intermediates(
            images, indices=self.layers, norm=self.normalize, intermediates_only=True, output_fmt="NCHW"
        )
        return [images, *maps]
