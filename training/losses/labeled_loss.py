"""What every method does with labeled images: cross-entropy; if asked OHEM, Dice, class weights, heads, contrast."""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.contracts import MethodSettings
from semseg_app.training.data.streams import ImageDataset, LabeledBatch
from semseg_app.training.losses.boundary import (
    at_boundaries,
    boundary_aware_cross_entropy,
    boundary_cross_entropy,
)
from semseg_app.training.losses.contrast import ContrastAddOn, ContrastConfig


class LabeledLossConfig(MethodSettings):
    """Keys that all methods share."""

    auxiliary_weight: float = Field(default=0.4, ge=0)
    """Weight of each auxiliary head's loss (PSPNet, section 3.3); no effect without model.auxiliary, ocr or
    pidnet."""
    boundary_weight: float = Field(default=20.0, ge=0)
    """Weight of the loss of a boundary head (PIDNet's lambda_1); no effect on other networks."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """A pixel counts (1 / share of its class)^this, on average 1: 0 is plain cross-entropy, 1 makes classes equal.
    Try 0.5 where rare classes are never predicted."""
    class_weights: tuple[float, ...] | None = None
    """The weight of each class itself, in the order of the dataset's classes, in place of class_balance; only their
    ratios count, since they are scaled to be 1 on average over the labeled pixels."""
    dice_weight: float = Field(default=0.0, ge=0)
    """Weight of a Dice loss over the batch (Milletari et al., "V-Net", 2016); it lifts small classes in short runs."""
    labeled_reduction: Literal["labeled", "all"] = "labeled"
    """What the sum of cross-entropies is divided by: the labeled pixels, or all pixels with the ignored ones and the
    padding (mmsegmentation's default, and so S4Former's). OHEM has a mean of its own."""
    ohem_threshold: float | None = Field(default=None, gt=0, le=1)
    """Online hard example mining: cross-entropy only of pixels whose class has at most this probability (0.7 in the
    Cityscapes runs of UniMatch and AugSeg); null = of all."""
    ohem_min_kept: int = Field(default=100_000, ge=1)
    """With ohem_threshold: the least number of pixels, the hardest, that count in every process's batch."""
    ohem_heads: Literal["all", "main"] = "all"
    """Where hard examples are mined. main = by the classifier alone, in the boundary-aware loss too, and plain
    cross-entropy of auxiliary heads: PIDNet's code, with threshold 0.9 and 131072 pixels."""
    contrast: ContrastConfig | None = None
    """Multi- and cross-scale contrast (training/losses/contrast.py); null = none, {} = as published."""

    @model_validator(mode="after")
    def _weighs_classes_once(self) -> Self:
        if self.class_weights is not None and self.class_balance:
            raise ValueError("class_balance and class_weights both weigh the classes; leave one out")
        if self.class_weights is not None and not all(0 < weight < math.inf for weight in self.class_weights):
            raise ValueError("class_weights are positive numbers, one for each class")
        return self


class LabeledLoss(nn.Module):
    """Features of labeled images -> named losses: `supervised`; if asked `dice`, `scale_contrast`,
    `cross_scale_contrast`; and what the network has heads for: `auxiliary`, `boundary`, `boundary_aware`.

    Args:
        config: see `LabeledLossConfig`.
        labeled: what will be learned from.
        network: whose maps are contrasted. The heads for that are part of this module, so of no model folder.
    """

    class_weights: Tensor | None

    def __init__(self, config: LabeledLossConfig, labeled: ImageDataset, network: SegmentationNetwork | None = None):
        super().__init__()
        self.config = config
        weights = class_weights(labeled, config.class_balance, config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.dice = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE) if config.dice_weight else None
        if config.contrast and network is None:
            raise UserError("method.contrast: this method has no maps to contrast; leave contrast out")
        self.contrast = ContrastAddOn(config.contrast, network) if config.contrast and network else None

    def forward(self, network: SegmentationNetwork, features: Features, labeled: LabeledBatch) -> dict[str, Tensor]:
        """All at full resolution; cross-entropies are sums over labeled pixels / the step's label count (never 0/0).

        With OHEM they are means over the pixels kept, which each process counts by itself, as published.
        """
        height, width = labeled.labels.shape[1:]
        logits = network.upsample(features.logits.float(), height, width)
        losses = {"supervised": self._cross_entropy(logits, labeled)}
        if self.dice is not None:
            losses["dice"] = self.config.dice_weight * self.dice(logits, labeled.labels)
        if features.auxiliary:
            full = [network.upsample(one.float(), height, width) for one in features.auxiliary]
            plain = self.config.ohem_heads == "main"
            auxiliary = torch.stack([self._cross_entropy(one, labeled, plain) for one in full]).sum()
            losses["auxiliary"] = self.config.auxiliary_weight * auxiliary
        if features.boundary is not None:
            boundary = network.upsample(features.boundary.float(), height, width)
            losses["boundary"] = self.config.boundary_weight * boundary_cross_entropy(boundary, labeled.labels)
            losses["boundary_aware"] = self._boundary_aware(logits, boundary, labeled.labels)
        if self.contrast is not None:
            losses |= self.contrast(features, labeled.labels)
        return losses

    def _boundary_aware(self, logits: Tensor, boundary: Tensor, labels: Tensor) -> Tensor:
        if self.config.ohem_threshold is None or self.config.ohem_heads == "all":
            return boundary_aware_cross_entropy(logits, boundary, labels)
        least, kept = self.config.ohem_threshold, self.config.ohem_min_kept
        return hard_cross_entropy(logits, at_boundaries(boundary, labels), self.class_weights, least, kept)

    def _cross_entropy(self, logits: Tensor, labeled: LabeledBatch, plain: bool = False) -> Tensor:
        if self.config.ohem_threshold is not None and not plain:
            least, kept = self.config.ohem_threshold, self.config.ohem_min_kept
            return hard_cross_entropy(logits, labeled.labels, self.class_weights, least, kept)
        total = functional.cross_entropy(
            logits, labeled.labels, self.class_weights, ignore_index=IGNORE, reduction="sum"
        )
        if self.config.labeled_reduction == "all":
            return total / labeled.labels.numel()
        return total / labeled.label_count.clamp(min=1)


def hard_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, threshold: float, min_kept: int
) -> Tensor:
    """Cross-entropy of the hard pixels alone (after Shrivastava et al., "Online Hard Example Mining", CVPR 2016).

    Hard are labeled pixels whose class has a probability of at most `threshold`, or, where those are fewer than
    `min_kept`, the `min_kept` hardest (all where fewer are labeled). Nothing is gathered: no shape depends on the data.

    Args:
        logits: float `[B, C, H, W]`.
        labels: int64 `[B, H, W]`, 255 = ignore.
        class_weights: `[C]`, or None; they weigh the loss, not the choice.
        threshold: above 0.
        min_kept: pixels of this batch, at least 1.

    Returns:
        Scalar: the mean over hard pixels, 0 where nothing is labeled.
    """
    pixel_loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    # Ignored pixels have loss 0, the easiest, so they never take a place among the hardest.
    losses = pixel_loss.detach().flatten()
    hardest = min(min_kept, len(losses))
    bar = losses.kthvalue(len(losses) - hardest + 1).values.clamp(max=-math.log(threshold))
    easy = pixel_loss.detach() < bar  # False for NaN: a broken loss must show
    hard = ~easy & (labels != IGNORE)
    if class_weights is not None:
        pixel_loss = pixel_loss * class_weights[torch.where(labels == IGNORE, 0, labels)]
    return torch.where(hard, pixel_loss, pixel_loss.new_zeros(())).sum() / hard.sum().clamp(min=1)


def class_weights(labeled: ImageDataset, balance: float, explicit: tuple[float, ...] | None = None) -> Tensor | None:
    """float `[C]`: `explicit`, or share^-balance, scaled so that the mean over labeled pixels is 1.

    None where neither asks for weights. UserError where `explicit` has another number of classes than the data.
    """
    if balance == 0 and explicit is None:
        return None
    counts = labeled.class_counts()
    share = counts / counts.sum()
    if explicit is None:
        weights = torch.where(share > 0, share.clamp(min=1e-6) ** -balance, 0.0)
    elif len(explicit) == len(counts):
        weights = torch.tensor(explicit)
    else:
        raise UserError(
            f"method.class_weights: {len(explicit)} weights, but {labeled.data.root} has {len(counts)} classes; write "
            "one for each"
        )
    return weights / (weights * share).sum()
