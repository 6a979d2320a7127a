"""What all methods with unlabeled images share: their config keys, and labels made from predictions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from semseg_app.models import SegmentationNetwork
from semseg_app.training.data.mixing import MixBatch
from semseg_app.training.data.streams import ImageDataset, UnlabeledBatch
from semseg_app.training.losses.labeled_loss import LabeledLossConfig, class_weights
from semseg_app.training.losses.pseudo_label import Reduction, at_least_float32, pseudo_label_loss
from semseg_app.training.methods.guardrails import GuardrailConfig, PseudoLabelMonitor


class SemiSupervisedConfig(LabeledLossConfig):
    """Keys that all methods with unlabeled images share."""

    unsupervised_weight: float = Field(default=1.0, ge=0)
    """Weight of everything that is learned from unlabeled images, beside what the method's own terms carry."""
    ramp_up: int = Field(default=0, ge=0)
    """Steps in which that weight grows linearly from 0: from random weights the first pseudo labels are noise."""
    guardrails: GuardrailConfig = GuardrailConfig()
    """When the run warns about its pseudo labels, and when it stops."""

    def unlabeled_weight(self, step: int) -> float:
        """The weight at `step`, from 0."""
        return self.unsupervised_weight * min(1.0, (step + 1) / (self.ramp_up + 1))


class HardLabelConfig(SemiSupervisedConfig):
    """Keys of the methods that learn the confident pixels of hard pseudo labels."""

    threshold: float = Field(default=0.95, ge=0, le=1)
    """Confidence from which a pixel is learned from; 0 = all are. Lower it where a run warns of low coverage."""
    surest_share: float | None = Field(default=None, gt=0, le=1)
    """Instead of the threshold: this share of the pixels of each predicted class is learned from, the surest of every
    process's batch. So no class is left out because the network is never as sure of it as of the road."""
    reduction: Reduction = "valid"
    """What the sum over those pixels is divided by: all pixels of the batch, or the valid ones (those of the photo)."""
    pseudo_label_balance: float = Field(default=0.0, ge=0, le=1)
    """As class_balance, for pseudo labels (weights from the shares in the labeled images), on average 1 over the pixels
    that are learned from. Rare classes seldom reach the threshold: without it short runs unlearn them."""

    def monitor(self, labeled: ImageDataset) -> PseudoLabelMonitor:
        """Counts the pixels that this method learns from."""
        return PseudoLabelMonitor(self.guardrails, labeled, self.threshold, self.surest_share)


@contextmanager
def without_dropout(network: SegmentationNetwork) -> Iterator[None]:
    """The decoder without its dropout: labels are written by the whole network, as the published ones have no dropout.

    For students that label in train mode, where batch norm shall see the batch.
    """
    dropouts = [module for module in network.decoder.modules() if isinstance(module, _DropoutNd) and module.training]
    for module in dropouts:
        module.eval()
    try:
        yield
    finally:
        for module in dropouts:
            module.train()


class HardLabelLoss(nn.Module):
    """Cross-entropy to hard pseudo labels with a method's threshold, reduction and class weights."""

    class_weights: Tensor | None

    def __init__(self, config: HardLabelConfig, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights(labeled, config.pseudo_label_balance), persistent=False)

    def forward(self, logits: Tensor, target: MixBatch) -> Tensor:
        """Logits `[B, C, H, W]` of `target.images`, or of another view of the same pixels."""
        return pseudo_label_loss(
            logits,
            target.labels,
            target.confidence,
            target.valid,
            self.config.threshold,
            self.config.reduction,
            self.class_weights,
            self.config.surest_share,
        )


class PseudoLabels(NamedTuple):
    """Predictions as labels, without gradient, one per pixel of the crop."""

    labels: Tensor
    """int64 `[B, H, W]`; every pixel has a class, whatever its confidence."""
    confidence: Tensor
    """float `[B, H, W]`, the probability of that class."""
    logits: Tensor
    """float `[B, C, H, W]`."""


@torch.no_grad()
def pseudo_labels(network: SegmentationNetwork, logits: Tensor, height: int, width: int) -> PseudoLabels:
    """Logits on the network's grid -> labels of the `height` x `width` crop."""
    full = network.upsample(at_least_float32(logits.detach()), height, width)
    confidence, labels = full.softmax(dim=1).max(dim=1)
    return PseudoLabels(labels, confidence, full)


@torch.no_grad()
def written_labels(writer: Callable[[Tensor], Tensor], role: str, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
    """`Method.pseudo_label_parts` where one network's prediction is the whole pseudo label.

    Args:
        writer: weak images to logits.
        role: its name, "student" or "teacher".
        unlabeled: whose weak views it labels.
    """
    return {role: at_least_float32(writer(unlabeled.weak)).softmax(dim=1)}
