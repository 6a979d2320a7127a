"""IFVD: how far each pixel lies from the mean of its class follows the teacher's.

Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020. Features are what the
classifiers read. The paper adds KD and an adversarial term (left out here); alone the loss can end below the
undistilled student.
"""

import torch
from pydantic import Field
from torch import Tensor

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.losses.class_sampling import resize_labels
from semseg_app.training.losses.pseudo_label import at_least_float32


class IFVDConfig(PartConfig):
    """Weight of the CIRKD code base; the original takes 200."""

    weight: float = Field(default=20.0, ge=0)
    """Weight of the term."""
    count_ignored: bool = True
    """Ignored pixels contribute nothing, but stay in the mean, as in the released code."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


def ifvd(student: Tensor, teacher: Tensor, label: Tensor, num_classes: int, count_ignored: bool = True) -> Tensor:
    """Mean squared difference of the maps cos(pixel, mean of its class in its image).

    Args:
        student: `[B, C_s, H, W]`.
        teacher: `[B, C_t, H, W]`, detached.
        label: int `[B, H0, W0]`, brought to H x W by nearest neighbor; what is not 0 ... num_classes - 1 is ignored.
        num_classes: K.
        count_ignored: divide by all pixels, not by those with a class.
    """
    label = resize_labels(label, *student.shape[2:]).flatten(1).long()  # [B, HW]
    valid = (label >= 0) & (label < num_classes)
    label = torch.where(valid, label, 0)
    with torch.autocast(student.device.type, enabled=False):
        own = _closeness(at_least_float32(student), label, valid, num_classes)
        others = _closeness(at_least_float32(teacher.detach()), label, valid, num_classes)
    total = (own - others).square().masked_fill(~valid, 0).sum()
    return total / (label.numel() if count_ignored else valid.sum().clamp(min=1))


def _closeness(feature: Tensor, label: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """cos(pixel, mean of its class), `[B, HW]`, from `[B, C, H, W]`: two matrix products, no loop over classes."""
    pixels = feature.flatten(2)  # [B, C, HW]
    classes = torch.arange(num_classes, device=label.device).unsqueeze(1)
    member = ((label.unsqueeze(1) == classes) & valid.unsqueeze(1)).to(pixels.dtype)  # [B, K, HW]
    means = member @ pixels.mT / (member.sum(dim=2, keepdim=True) + 1e-6)  # [B, K, C]
    products = (means @ pixels).gather(1, label.unsqueeze(1)).squeeze(1)
    mean_norms = torch.linalg.vector_norm(means, dim=2).gather(1, label)
    pixel_norms = torch.linalg.vector_norm(pixels, dim=1)
    return products / (pixel_norms.clamp(min=1e-8) * mean_norms.clamp(min=1e-8))


class IFVD(Distiller):
    """The weighted term, `ifvd`, of the labeled images."""

    def __init__(self, config: IFVDConfig, num_classes: int):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.reads = (config.features,)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        student, teacher = (feature[: len(labels)] for feature in pairs[self.config.features])
        loss = ifvd(student, teacher, labels, self.num_classes, self.config.count_ignored)
        return {"ifvd": self.config.weight * loss}
