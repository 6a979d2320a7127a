"""Plain supervised training: the control that every other method is measured against."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.data.dataset import IGNORE, SegmentationData
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.data import Batch, LabeledBatch, StrongView


class SupervisedConfig(BaseModel):
    """Cross-entropy on the labeled images; unlabeled images are not read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["supervised"] = "supervised"
    auxiliary_weight: float = Field(default=0.4, ge=0)
    """Weight of each auxiliary head's loss (PSPNet, section 3.3); no effect without model.auxiliary."""


class Supervised(nn.Module):
    """See `semseg_app.training.methods` for what the loop asks of a method."""

    uses_unlabeled = False
    strong_views: tuple[StrongView, ...] = ()

    def __init__(self, config: SupervisedConfig, network: SegmentationNetwork, data: SegmentationData):
        super().__init__()
        self.config = config
        self.network = network

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named losses; the loop backs up their sum."""
        return supervised_losses(self.network, batch.labeled, self.config.auxiliary_weight)

    def after_step(self, step: int) -> None:
        """Nothing to update."""

    def networks(self) -> dict[str, SegmentationNetwork]:
        """What is evaluated and saved; the first is what the method delivers."""
        return {"student": self.network}


def supervised_losses(
    network: SegmentationNetwork, labeled: LabeledBatch, auxiliary_weight: float
) -> dict[str, Tensor]:
    """Forward the labeled images and score them: `supervised`, and `auxiliary` where the network has such heads."""
    return losses_of(network, network.features(labeled.images), labeled, auxiliary_weight)


def losses_of(
    network: SegmentationNetwork, features: Features, labeled: LabeledBatch, auxiliary_weight: float
) -> dict[str, Tensor]:
    """Cross-entropy at full resolution of the logits, and of every auxiliary head's."""
    losses = {"supervised": cross_entropy(network, features.logits, labeled)}
    if features.auxiliary:
        auxiliary = torch.stack([cross_entropy(network, logits, labeled) for logits in features.auxiliary]).sum()
        losses["auxiliary"] = auxiliary_weight * auxiliary
    return losses


def cross_entropy(network: SegmentationNetwork, logits: Tensor, labeled: LabeledBatch) -> Tensor:
    """`logits [B, C, h, w]` upsampled to the labels; sum over labeled pixels / the step's label count (never 0/0)."""
    height, width = labeled.labels.shape[1:]
    full = network.upsample(logits.float(), height, width)
    total = functional.cross_entropy(full, labeled.labels, ignore_index=IGNORE, reduction="sum")
    return total / labeled.label_count.clamp(min=1)
