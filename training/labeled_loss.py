"""What every method does with labeled images: cross-entropy, and if asked Dice, class weights and auxiliary heads."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.data.dataset import IGNORE
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.data import LabeledBatch, Pool


class LabeledLossConfig(BaseModel):
    """Keys that all methods share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    auxiliary_weight: float = Field(default=0.4, ge=0)
    """Weight of each auxiliary head's loss (PSPNet, section 3.3); no effect without model.auxiliary."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """A pixel counts (1 / share of its class)^this, on average 1: 0 is plain cross-entropy, 1 makes classes equal."""
    dice_weight: float = Field(default=0.0, ge=0)
    """Weight of a Dice loss over the batch (Milletari et al., "V-Net", 2016); it lifts small classes in short runs."""


class LabeledLoss(nn.Module):
    """Features of labeled images -> named losses: `supervised`, `auxiliary` where heads are, `dice` if asked."""

    class_weights: Tensor | None

    def __init__(self, config: LabeledLossConfig, labeled: Pool):
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights(labeled, config.class_balance), persistent=False)
        self.dice = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE) if config.dice_weight else None

    def forward(self, network: SegmentationNetwork, features: Features, labeled: LabeledBatch) -> dict[str, Tensor]:
        """All at full resolution; cross-entropies are sums over labeled pixels / the step's label count (never 0/0)."""
        height, width = labeled.labels.shape[1:]
        logits = network.upsample(features.logits.float(), height, width)
        losses = {"supervised": self._cross_entropy(logits, labeled)}
        if self.dice is not None:
            losses["dice"] = self.config.dice_weight * self.dice(logits, labeled.labels)
        if features.auxiliary:
            full = [network.upsample(one.float(), height, width) for one in features.auxiliary]
            auxiliary = torch.stack([self._cross_entropy(one, labeled) for one in full]).sum()
            losses["auxiliary"] = self.config.auxiliary_weight * auxiliary
        return losses

    def _cross_entropy(self, logits: Tensor, labeled: LabeledBatch) -> Tensor:
        total = functional.cross_entropy(
            logits, labeled.labels, self.class_weights, ignore_index=IGNORE, reduction="sum"
        )
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
