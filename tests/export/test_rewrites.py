"""What is replaced before a network is traced computes the same: TensorFlow-style padding, SegFormer's linear head."""

from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn

from semseg_app.export.merged_segformer import MergedSegformerHead, merge_segformer_head
from semseg_app.export.onnx import Preparation
from semseg_app.export.traceable import fix_same_padding
from semseg_app.models import ModelSpec, SegmentationNetwork, build

SIZES = ((64, 96), (128, 32), (160, 224))


class Stack(nn.Module):
    """Some layers as an encoder, the last map at a stride of 8; `uneven` sees maps whose sides 3 does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Conv2dSame(3, 8, 3, stride=2),
                StdConv2dSame(8, 8, 3, stride=2),
                ScaledStdConv2dSame(8, 8, 3, stride=1),
                MaxPool2dSame(3, stride=2),
                Conv2dSame(8, 8, (5, 3), stride=1, dilation=2, groups=8, bias=True),
                AvgPool2dSame(2, stride=1),
            ]
        )
        self.uneven = Conv2dSame(8, 8, 3, stride=3)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return [*maps, self.uneven(maps[-1])]


class Last(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-2]


def settled(network: Any) -> Any:
    """In eval mode, with statistics and biases that are no longer those of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return network.eval()


def test_constant_padding_is_timm_s_at_every_size():
    torch.manual_seed(0)
    spec = ModelSpec(num_classes=3)
    network = SegmentationNetwork(spec, Stack(), Last(), 8, 8, [8]).eval()
    images = [torch.rand(2, 3, *size) - 0.8 for size in SIZES]  # negative: a padding by zeros would win the maximum
    with torch.no_grad():
        expected = [network.encoder(image) for image in images]
    names = list(network.state_dict())
    fix_same_padding(network)
    assert [type(layer) for layer in network.encoder.layers if isinstance(layer, Conv2dSame)] == []
    assert isinstance(network.encoder.uneven, Conv2dSame)
    assert [name for name in network.state_dict() if "layers.0." in name or "layers.4." in name] == [
        name for name in names if "layers.0." in name or "layers.4." in name
    ]
    with torch.no_grad():
        for image, maps in zip(images, expected, strict=True):
            for found, wanted in zip(network.encoder(image), maps, strict=True):
                assert torch.equal(found, wanted)


@pytest.mark.parametrize("encoder", ["tu-test_efficientnet", "mit_b0"])
def test_the_merged_segformer_head_gives_the_same_logits(encoder):
    """With a stage at stride 2, which is reduced, and without."""
    torch.manual_seed(0)
    network = settled(build(ModelSpec(architecture="segformer", encoder=encoder, decoder_channels=16, num_classes=5)))
    images = [torch.rand(2, 3, height, width) for height, width in ((64, 96), (33, 75))]
    with torch.no_grad():
        expected = [network(image) for image in images]
        merge_segformer_head(network)
        assert isinstance(network.decoder, MergedSegformerHead)
        for image, wanted in zip(images, expected, strict=True):
            torch.testing.assert_close(network(image), wanted, rtol=1e-4, atol=1e-4)


def test_other_heads_stay():
    network = build(ModelSpec(architecture="unet", encoder="tu-test_efficientnet", decoder_channels=8, num_classes=3))
    decoder = network.decoder
    merge_segformer_head(network)
    assert network.decoder is decoder


def test_preparation_is_the_network_s_own_to_the_bit() -> None:
    network = build(ModelSpec(architecture="unet", encoder="tu-test_resnet", decoder_channels=32, num_classes=3))
    images = torch.randint(0, 256, (2, 37, 53, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = network.prepare(images.permute(0, 3, 1, 2).float() / 255)
    assert expected.shape[2] > 37
    assert torch.equal(Preparation(network)(images), expected)
