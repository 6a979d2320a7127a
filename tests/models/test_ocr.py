"""OCRNet's head against loops over pixels and classes."""

import math

import torch
from support import tiny_encoders  # noqa: F401, adds hrnet_test to timm
from torch import nn

from semseg_app.models import ModelSpec, build
from semseg_app.models.ocr import ObjectAttention, region_representations


def test_regions_are_averages_weighted_by_the_softmax_over_pixels():
    torch.manual_seed(0)
    pixels, logits = torch.randn(2, 4, 2, 3, dtype=torch.double), torch.randn(2, 3, 2, 3, dtype=torch.double)
    regions = region_representations(pixels, logits)
    for image in range(2):
        for region in range(3):
            expected, total = torch.zeros(4, dtype=torch.double), 0.0
            for row in range(2):
                for column in range(3):
                    weight = math.exp(logits[image, region, row, column])
                    expected += weight * pixels[image, :, row, column]
                    total += weight
            torch.testing.assert_close(regions[image, :, region], expected / total)


def test_attention_mixes_regions_by_their_likeness_to_the_pixel():
    torch.manual_seed(1)
    attention = ObjectAttention(4, 4)
    for name in ("phi", "psi", "delta", "rho"):
        setattr(attention, name, nn.Identity())
    pixels, regions = torch.randn(2, 4, 2, 3), torch.randn(2, 4, 5)
    context = attention(pixels, regions)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                pixel = pixels[image, :, row, column]
                likeness = [math.exp(float(pixel @ regions[image, :, k]) / math.sqrt(4)) for k in range(5)]
                expected = sum(one * regions[image, :, k] for k, one in enumerate(likeness)) / sum(likeness)
                torch.testing.assert_close(context[image, :, row, column], expected)


def test_the_classifier_of_regions_is_supervised_and_stays_in_the_network():
    torch.manual_seed(0)
    spec = ModelSpec(architecture="ocr", encoder="tu-hrnet_test", num_classes=3, decoder_channels=16)
    network = build(spec, training_heads=False).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        features = network.features(images)
        assert [one.shape for one in features.auxiliary] == [(1, 3, 16, 16)]
        # The regions decide about the context.
        nn.init.zeros_(network.decoder.regions[-1].weight)
        assert not torch.allclose(network(images), features.logits)
