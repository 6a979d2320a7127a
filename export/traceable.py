"""Equal operators for what torch's exporter cannot trace with free height and width, or takes minutes for.

All replacements are made in place, before the network is traced. They share the network's weights and their names.
"""

from collections.abc import Sequence

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from semseg_app.errors import UserError
from semseg_app.models import SegmentationNetwork
from semseg_app.models.pyramid_pooling import adaptive_average_pool

Same = Conv2dSame | StdConv2dSame | ScaledStdConv2dSame | AvgPool2dSame | MaxPool2dSame
"""timm's layers that pad as TensorFlow's "SAME" does: how much follows from the size of the map."""
Pair = tuple[int, int]
MULTIPLES = ((1, 2), (3, 1), (2, 3))
"""Sides of the probing images, in strides of the network."""


def make_traceable(network: SegmentationNetwork) -> None:
    """Prepare a network for an export with free height and width. UserError where something in it has no equal."""
    free_pooling(network)
    fix_same_padding(network)


def fix_same_padding(network: SegmentationNetwork) -> None:
    """Give TensorFlow-style layers the padding that they have for every photo.

    "SAME" padding depends on the size of the map only through its remainder by the layer's stride. The network pads
    photos to a multiple of its own stride, so that remainder is always 0 and the padding a constant. Traced with free
    sizes, the padding is an expression of height and width, and every layer after it makes it longer: an
    EfficientNet-Lite0 took 200 s and more in the exporter's solver. A layer that does get other maps is left alone.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Same)
        and not (isinstance(module, StdConv2dSame | ScaledStdConv2dSame) and not module.same_pad)  # constant already
    }
    uneven: set[str] = set()
    hooks: list[RemovableHandle] = []
    for name, layer in layers.items():
        strides = _pair(layer.stride)

        def probe(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name, strides: Pair = strides) -> None:
            if any(side % stride for side, stride in zip(inputs[0].shape[-2:], strides, strict=True)):
                uneven.add(name)

        hooks.append(layer.register_forward_pre_hook(probe))
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()
            for rows, columns in MULTIPLES if layers else ():
                network(torch.zeros(1, 3, rows * network.stride, columns * network.stride))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    for name in layers.keys() - uneven:
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, _with_constant_padding(layers[name]))


class _PaddedConv2d(nn.Conv2d):
    """A convolution after zero padding by left, right, top and bottom."""

    pads: tuple[int, int, int, int]

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(functional.pad(maps, list(self.pads)))


def _with_constant_padding(layer: Same) -> nn.Module:
    """The equal of a "SAME" layer for maps whose sides its stride divides."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = (1, 1) if isinstance(layer, AvgPool2dSame) else _pair(layer.dilation)
    vertical, horizontal = (
        get_same_padding(stride[axis], kernel[axis], stride[axis], dilation[axis]) for axis in (0, 1)
    )
    top, left = vertical // 2, horizontal // 2
    pads = (left, horizontal - left, top, vertical - top)
    if isinstance(layer, Conv2dSame):
        even = (2 * left, 2 * top) == (horizontal, vertical)
        made = (nn.Conv2d if even else _PaddedConv2d)(
            layer.in_channels,
            layer.out_channels,
            kernel,
            stride,
            (top, left) if even else 0,
            dilation,
            layer.groups,
            layer.bias is not None,
            device="meta",
        )
        if isinstance(made, _PaddedConv2d):
            made.pads = pads
        made.weight, made.bias = layer.weight, layer.bias
        return made
    if isinstance(layer, MaxPool2dSame):
        return nn.Sequential(
            nn.ConstantPad2d(pads, -torch.inf), nn.MaxPool2d(kernel, stride, 0, dilation, ceil_mode=layer.ceil_mode)
        )
    if isinstance(layer, AvgPool2dSame):
        return nn.Sequential(nn.ZeroPad2d(pads), nn.AvgPool2d(kernel, stride, 0, layer.ceil_mode))
    assert isinstance(layer, StdConv2dSame | ScaledStdConv2dSame)
    layer.same_pad = False  # its own padding is 0
    return nn.Sequential(nn.ZeroPad2d(pads), layer)


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _AnySizePooling(nn.Module):
    """nn.AdaptiveAvgPool2d as a product with averaging matrices that are computed from the photo's own size."""

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, maps: Tensor) -> Tensor:
        return adaptive_average_pool(maps, self.bins)


def free_pooling(network: nn.Module) -> None:
    """Replace what pools to a fixed grid by an equal operator that exports for every size, in place.

    Traced with free height and width, adaptive pooling bakes the windows of the traced size, after minutes in the
    exporter's solver (timm's pvt_v2_b2_li has 16 of them: no end within 8 minutes, 2.5 minutes with this). UserError
    for a grid that is not square, and for adaptive maximum pooling.
    """
    for name, parent in network.named_modules():
        for attribute, module in parent.named_children():
            if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                size = module.output_size
                rows, columns = (size, size) if isinstance(size, int | None) else size
                if (rows, columns) == (1, 1):
                    continue  # a mean over the whole map exports at any size
                if rows is None or rows != columns or isinstance(module, nn.AdaptiveMaxPool2d):
                    raise UserError(
                        f"{name}.{attribute} is {module}, which cannot be exported for photos of any size; take "
                        "another encoder"
                    )
                setattr(parent, attribute, _AnySizePooling(rows))
