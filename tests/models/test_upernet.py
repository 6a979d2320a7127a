"""The head of UPerNet against the package whose modules it takes."""

import torch
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder as PackagedDecoder

from semseg_app.models import ModelSpec, build
from semseg_app.models.upernet import UPerNetDecoder


def test_equals_the_packaged_forward_pass() -> None:
    torch.manual_seed(0)
    decoder = UPerNetDecoder([3, 4, 6, 8, 10, 12], 16).eval()
    maps = [torch.randn(2, width, 64 >> depth, 96 >> depth) for depth, width in enumerate((3, 4, 6, 8, 10, 12))]
    expected = PackagedDecoder.forward(decoder, list(maps))
    torch.testing.assert_close(decoder(maps), expected)
    pyramid = decoder.pyramid(maps)
    assert [one.shape[1:] for one in pyramid] == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]


def test_features_hold_the_pyramid() -> None:
    network = build(ModelSpec(architecture="upernet", encoder="resnet18", num_classes=3, decoder_channels=16)).eval()
    first, rest = network.features(torch.rand(3, 3, 64, 96)).split(1)
    assert [one.shape for one in first.pyramid] == [(1, 16, 16 >> depth, 24 >> depth) for depth in range(4)]
    assert len(rest.pyramid[0]) == 2
    torch.testing.assert_close(network.decoder.fuse(first.pyramid), first.decoder)


def test_plain_has_the_parameters_of_the_contrast_papers_head() -> None:
    """Counted by its layers over a ResNet-101: width 512, laterals without bias, no norm on the encoder's maps."""
    with torch.device("meta"):
        head = UPerNetDecoder([3, 64, 256, 512, 1024, 2048], 512, normalizes=False)

    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs  # with the two vectors of its batch norm

    # The branch that pools the whole map has a bias in place of a norm: one image gives such a norm a single value.
    pooling = 4 * convolution(2048, 512, 1) - 512 + convolution(2048 + 4 * 512, 512, 3)
    pyramid = sum(convolution(inputs, 512, 1) + convolution(512, 512, 3) for inputs in (256, 512, 1024))
    fusion = convolution(4 * 512, 512, 3)
    assert sum(parameter.numel() for parameter in head.parameters()) == pooling + pyramid + fusion
