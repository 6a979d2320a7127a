"""A network whose every 8 x 8 pixels are a world of their own: which pixels mattered can be told exactly."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models import ModelSpec, SegmentationNetwork
from semseg_app.training.data.streams import Batch, LabeledBatch, UnlabeledBatch

HEIGHT, WIDTH = 40, 52  # padded to 40 x 56 by the network


class PatchEncoder(nn.Module):
    """Stages at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 4, stride=4)
        self.second = nn.Conv2d(6, 8, 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images).relu()
        return [images, first, self.second(first).relu()]


class PatchDecoder(nn.Module):
    """At stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(14, 5, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        deep = functional.interpolate(maps[2], scale_factor=2, mode="nearest")
        return self.mix(torch.cat([maps[1], deep], dim=1)).relu()


def patch_network() -> SegmentationNetwork:
    spec = ModelSpec(architecture="segformer", encoder="resnet18", num_classes=3)
    return SegmentationNetwork(spec, PatchEncoder(), PatchDecoder(), 5, stride=8, stage_channels=[6, 8])


def random_batch(image_classes: Tensor | None = None) -> Batch:
    """Two labeled crops, two unlabeled ones with padding left and below and a piece cut out."""
    labels = torch.randint(0, 3, (2, HEIGHT, WIDTH))
    nowhere = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    labeled_pad, pad, cut = nowhere.clone(), nowhere.clone(), nowhere.clone()
    labeled_pad[1, :, 40:] = True
    labels[labeled_pad] = 255
    pad[0, :, :16] = True
    pad[1, 32:] = True
    cut[0, 8:24, 16:32] = True
    images = torch.rand(3, 2, 3, HEIGHT, WIDTH)
    return Batch(
        LabeledBatch(images[0], labels, labeled_pad, (labels != 255).sum().float()),
        UnlabeledBatch(images[1].clone(), [images[2].clone()], pad, [cut], image_classes=image_classes),
    )


def recorded_passes(network: SegmentationNetwork) -> list[tuple[str, bool, bool]]:
    """A list that fills with (part, training mode, gradient) of every pass through encoder and decoder from now on."""
    passes: list[tuple[str, bool, bool]] = []
    for name in ("encoder", "decoder"):
        getattr(network, name).register_forward_hook(
            lambda module, inputs, output, name=name: passes.append((name, module.training, torch.is_grad_enabled()))
        )
    return passes


def changed_where(images: Tensor, mask: Tensor) -> Tensor:
    """Other pixels where `mask [B, H, W]` is True."""
    return torch.where(mask.unsqueeze(1), torch.rand_like(images), images)
