"""The three forms of DeepLabV3+: their sizes as published or by hand, their grids, and multi-grid."""

import pytest
import torch
from torch import nn

from semseg_app.models import ModelSpec, SegmentationNetwork, build


def on_meta(**keys: object) -> SegmentationNetwork:
    with torch.device("meta"):
        return build(ModelSpec(**({"architecture": "deeplabv3plus-plain", "num_classes": 21} | keys)))


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "published"),
    [("tu-resnet50s", 40.5), ("tu-resnet101s", 59.5)],
)
def test_as_many_parameters_as_the_published_rows(encoder: str, published: float) -> None:
    """In millions, UniMatch's and AugSeg's networks on VOC, as UniMatch V2's tables state them."""
    network = on_meta(encoder=encoder)
    assert count(network) / 1e6 == pytest.approx(published, abs=0.05)
    assert count(network.decoder, network.classifier) == 16_844_149  # the same file over either ResNet


def test_parameters_of_the_separable_form_by_hand() -> None:
    network = on_meta(architecture="deeplabv3plus-separable", encoder="tu-resnet50s")

    def pointwise(inner: int, outer: int) -> int:
        return inner * outer + 2 * outer

    def separable(inner: int, outer: int) -> int:
        return 9 * inner + 2 * inner + pointwise(inner, outer)

    pyramid = 2 * pointwise(2048, 256) + 3 * separable(2048, 256) + pointwise(5 * 256, 256)
    fusion = pointwise(256, 48) + separable(48 + 256, 256) + separable(256, 256)
    assert count(network.decoder, network.classifier) == pyramid + fusion + 256 * 21 + 21


def test_aligned_corners_need_no_padding_and_keep_the_corners() -> None:
    spec = ModelSpec(
        architecture="deeplabv3plus-plain", encoder="tu-test_resnet", num_classes=2, decoder_channels=8,
        align_corners=True,
    )  # fmt: skip
    network = build(spec).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 3, 65, 49))
        assert logits.shape[2:] == (17, 13)
        full = network.upsample(logits, 65, 49)
    torch.testing.assert_close(full[..., ::4, ::4], logits)


def test_multi_grid_multiplies_the_dilations_of_the_last_stage() -> None:
    """AugSeg's: the first block of a stage that gave up its stride has the dilation of the stage before."""
    network = on_meta(encoder="tu-resnet50s", multi_grid=(2, 2, 4))
    stages = dict(network.encoder.named_modules())
    assert [stages[f"model.layer4.{block}.conv2"].dilation for block in range(3)] == [(2, 2), (4, 4), (8, 8)]
    assert [stages[f"model.layer3.{block}.conv2"].dilation for block in range(3)] == [(1, 1)] * 3
    images = torch.empty(2, 3, 65, 65, device="meta")
    shapes = [maps.shape for maps in on_meta(encoder="tu-resnet50s").encode(images)]
    assert [maps.shape for maps in network.encode(images)] == shapes
