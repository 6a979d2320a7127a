"""SegFormer's head with its linear layers merged: the same logits for a fraction of the work.

The head (Xie et al., "SegFormer", 2021, section 3.2) projects every stage of the encoder by a linear layer, enlarges
the maps bilinearly to stride 4, concatenates them, and mixes them by a 1x1 convolution, batch norm and ReLU. All of
that but the ReLU is linear, and a bilinear value is a weighted mean of pixels, the same for all channels. So each
stage's layer, its part of the mixing convolution and the scale of the norm are one 1x1 convolution, which runs
where the map is still small; the enlarged maps are added. On tokens, the linear layers moreover transposed every map
twice.
"""

from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models import SegmentationNetwork


def merge_segformer_head(network: SegmentationNetwork) -> None:
    """Replace a SegFormer head by its merged equal, for inference alone, in place; other decoders stay."""
    if isinstance(network.decoder, SegformerDecoder):
        network.decoder = MergedSegformerHead(network.decoder)


class MergedSegformerHead(nn.Module):
    """The image and the encoder's maps, shallow to deep -> `[B, D, h, w]` at stride 4, as the given head in eval mode.

    Args:
        head: whose weights are taken.
    """

    def __init__(self, head: SegformerDecoder):
        super().__init__()
        mix, norm, _ = head.fuse_stage
        projections = [stage.linear for stage in head.mlp_stage]  # of the deepest stage first
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        parts = mix.weight.detach().double()[:, :, 0, 0].mul(scale[:, None]).chunk(len(projections), dim=1)
        bias = norm.bias.detach().double() - norm.running_mean.double() * scale
        for projection, part in zip(projections, parts, strict=True):
            bias = bias + part @ projection.bias.detach().double()
        self.stages = nn.ModuleList()
        for index, (projection, part) in enumerate(zip(projections, parts, strict=True)):
            last = index == len(projections) - 1
            layer = nn.Conv2d(projection.in_features, mix.out_channels, 1, bias=last)
            layer.weight.data = (part @ projection.weight.detach().double()).float()[:, :, None, None]
            if layer.bias is not None:
                layer.bias.data = bias.float()
            self.stages.append(layer)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """As `SegformerDecoder.forward`."""
        height, width = (side // 4 for side in maps[0].shape[2:])
        stages = [stage for stage in maps[1:] if stage.shape[1] > 0]  # transformers carry an empty map at stride 2
        mixed: Tensor | None = None
        for index, (layer, stage) in enumerate(zip(self.stages, reversed(stages), strict=True)):
            stride = 2 ** (len(stages) - 1 - index) * (2 if len(stages) == 5 else 4)
            if stride < 4:  # the smaller map is mixed, whichever it is
                projected = layer(_resized(stage, height, width))
            elif stride == 4:
                projected = layer(stage)
            else:
                projected = _resized(layer(stage), height, width)
            mixed = projected if mixed is None else mixed + projected
        assert mixed is not None
        return functional.relu(mixed)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
