"""Plain supervised training: the control that every other method is measured against."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.data.dataset import IGNORE
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.data import Batch, LabeledBatch, Pool, StrongView


class SupervisedConfig(BaseModel):
    """Cross-entropy on the labeled images; unlabeled images are not read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["supervised"] = "supervised"
    auxiliary_weight: float = Field(default=0.4, ge=0)
    """Weight of each auxiliary head's loss (PSPNet, section 3.3); no effect without model.auxiliary."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """A pixel counts (1 / share of its class)^this, on average 1: 0 is plain cross-entropy, 1 makes all classes equal.
    A little of it lifts rare classes in short runs."""


class Supervised(nn.Module):
    """See `semseg_app.training.methods` for what the loop asks of a method."""

    uses_unlabeled = False
    strong_views: tuple[StrongView, ...] = ()

    class_weights: Tensor | None

    def __init__(self, config: SupervisedConfig, network: SegmentationNetwork, labeled: Pool):
        super().__init__()
        self.config = config
        self.network = network
        self.register_buffer("class_weights", class_weights(labeled, config.class_balance), persistent=False)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named losses; the loop backs up their sum."""
        return supervised_losses(self.network, batch.labeled, self.config.auxiliary_weight, self.class_weights)

    def after_step(self, step: int) -> None:
        """Nothing to update."""

    def networks(self) -> dict[str, SegmentationNetwork]:
        """What is evaluated and saved; the first is what the method delivers."""
        return {"student": self.network}


def supervised_losses(
    network: SegmentationNetwork, labeled: LabeledBatch, auxiliary_weight: float, class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Forward the labeled images and score them: `supervised`, and `auxiliary` where the network has such heads."""
    return losses_of(network, network.features(labeled.images), labeled, auxiliary_weight, class_weights)


def losses_of(
    network: SegmentationNetwork,
    features: Features,
    labeled: LabeledBatch,
    auxiliary_weight: float,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Cross-entropy at full resolution of the logits, and of every auxiliary head's."""
    losses = {"supervised": cross_entropy(network, features.logits, labeled, class_weights)}
    if features.auxiliary:
        each = [cross_entropy(network, logits, labeled, class_weights) for logits in features.auxiliary]
        losses["auxiliary"] = auxiliary_weight * torch.stack(each).sum()
    return losses


def cross_entropy(
    network: SegmentationNetwork, logits: Tensor, labeled: LabeledBatch, class_weights: Tensor | None = None
) -> Tensor:
    """`logits [B, C, h, w]` upsampled to the labels; sum over labeled pixels / the step's label count (never 0/0)."""
    height, width = labeled.labels.shape[1:]
    full = network.upsample(logits.float(), height, width)
    total = functional.cross_entropy(full, labeled.labels, class_weights, ignore_index=IGNORE, reduction="sum")
    return total / labeled.label_count.clamp(min=1)


def class_weights(labeled: Pool, balance: float) -> Tensor | None:
    """float `[C]`: share^-balance, scaled so that the mean over labeled pixels is 1; None for balance 0."""
    if balance == 0:
        return None
    counts = torch.zeros(256, dtype=torch.int64)
    for index in range(len(labeled)):
        label = labeled[index][1]
        assert label is not None
        counts += torch.bincount(label.flatten(), minlength=256)
    share = counts[: labeled.data.num_classes] / counts[: labeled.data.num_classes].sum()
    weights = torch.where(share > 0, share.clamp(min=1e-6) ** -balance, 0.0)
    return weights / (weights * share).sum()
