"""A small network, one batch of crops, and what a method does with them, seen from outside."""

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.training.data.streams import Batch, LabeledBatch, UnlabeledBatch

HEIGHT, WIDTH = 32, 48


def network() -> SegmentationNetwork:
    """In eval mode: an image's logits then do not depend on its neighbors."""
    torch.manual_seed(0)
    spec = ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", decoder_channels=16, num_classes=3)
    net = build(spec).eval()
    with torch.no_grad():
        net.classifier.weight *= 10  # confidences on both sides of a threshold
    return net


def batch(strong: int = 1) -> Batch:
    """Two labeled and four unlabeled crops; the photos of the unlabeled ones end at different columns."""
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (2, HEIGHT, WIDTH))
    labels[:, :5] = 255
    pad = torch.arange(WIDTH) >= torch.tensor([WIDTH, 40, 30, 20]).view(4, 1, 1).expand(4, HEIGHT, 1)
    cut = torch.zeros_like(pad)
    cut[0, :10, :10] = True
    images = torch.rand(2 + 4 + 4 * strong, 3, HEIGHT, WIDTH)
    return Batch(
        LabeledBatch(images[:2], labels, torch.zeros_like(labels, dtype=torch.bool), (labels != 255).sum().float()),
        UnlabeledBatch(images[2:6], list(images[6:].split(4)), pad, [cut] * strong),
    )


def seen_by(network: SegmentationNetwork) -> list[Tensor]:
    """Fills with the images of every pass through the network, as they were before normalizing."""
    passes: list[Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        passes.append((inputs[0] * network.std + network.mean)[..., :HEIGHT, :WIDTH].detach())

    network.encoder.register_forward_pre_hook(look)
    return passes


def full_logits_of(network: SegmentationNetwork) -> list[Tensor]:
    """Fills with the full-size logits that have a gradient, in the order in which they are made."""
    made: list[Tensor] = []
    upsample = network.upsample

    def record(*arguments: object) -> Tensor:
        made.append(upsample(*arguments))
        return made[-1]

    network.upsample = record
    return made


def pasted(mixed: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """bool `[B, H, W]`: where `mixed` shows the partner; every pixel must be one of the two."""
    box = (mixed - own).abs().amax(1) > 1e-4
    torch.testing.assert_close(mixed, torch.where(box.unsqueeze(1), other, own), atol=1e-5, rtol=0)
    return box


def hard_label_loss(logits: Tensor, labels: Tensor, confidence: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Cross-entropy over confident valid pixels / valid pixels."""
    chosen = labels.masked_fill((confidence < threshold) | ~valid, 255)
    return functional.cross_entropy(logits, chosen, ignore_index=255, reduction="sum") / valid.sum()
