"""PC2Seg: consistent labels and pixel contrast between two views.

Zhong et al., "Pixel Contrastive-Consistent Semi-Supervised Semantic Segmentation", ICCV 2021. The paper leaves the
contrast's details open; what is chosen here is said where it is chosen.

A step costs: labeled images forward and backward; strong views forward and backward; weak views forward, and through
the encoder backward where the contrast learns from them. The contrast compares all N = B h w pixels of the deepest
stage. Its memory peaks while negatives are drawn, at about four float32 `[N, N]` matrices: 0.3 GB for four crops of 513
at stride 16 (N = 4356), 1.2 GB for eight, 0.1 GB for eight at stride 32. Nothing is `[N, N, C]` or `[N, K, D]`.
"""

from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import Batch, ImageDataset, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import pseudoseg_view
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.losses.negative_sampling import NegativeSampling, negative_weights, sample_negatives
from semseg_app.training.losses.pseudo_label import at_least_float32, mask_on_grid, masked_mean
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import SemiSupervisedConfig, written_labels


class PC2SegConfig(SemiSupervisedConfig):
    """Negatives, projection and the strong view are the paper's; weights, temperature and sampling are our choice."""

    name: Literal["pc2seg"] = "pc2seg"
    consistency_weight: float = Field(default=1.0, ge=0)
    """Weight of the consistency of weak and strong view."""
    contrast_weight: float = Field(default=0.1, ge=0)
    """0 is the paper's label-consistency-only variant, without a projection and without gradient in weak views."""
    contrast_sg: bool = False
    """Stop the contrast's gradient into weak views: positives and negatives then stand still."""
    temperature: float = Field(default=0.07, gt=0)
    """Of the contrast's softmax; lower looks harder at the nearest negatives."""
    negatives: int = Field(default=200, ge=1)
    """Drawn for each pixel of the deepest encoder stage."""
    sampling: NegativeSampling = "cross-image-debiased"
    """Which pixels are likely negatives: those of other images (cross-image), those that probably have another class
    (debiased), both, or all alike (uniform)."""
    projection_channels: int = Field(default=128, ge=1)
    """Width of the space in which pixels are contrasted."""
    cutout_size: int = Field(default=100, ge=0)
    """Side of the square that is cut out of strong views, in pixels of the crop; see PseudoSeg."""
    jitter: float = Field(default=0.5, ge=0, le=1)
    """Strength of the color jitter of strong views; see PseudoSeg."""


class PC2Seg(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor

    def __init__(self, config: PC2SegConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        # "Projection layer", in the singular: one 1x1 convolution.
        width = config.projection_channels
        self.projection = nn.Conv2d(network.stage_channels[-1], width, 1) if config.contrast_weight else None
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.strong_views = (partial(pseudoseg_view, cutout_size=config.cutout_size, strength=config.jitter),)
        self.monitor = PseudoLabelMonitor(config.guardrails, labeled, threshold=0.0)  # no pixel is left out

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses, `consistency`, and `contrast` where it is on.

        Labeled, weak and strong images are three batches with statistics of their own, as in PseudoSeg.
        """
        assert batch.unlabeled is not None
        unlabeled, network, config = batch.unlabeled, self.network, self.config
        weight = config.unlabeled_weight(step)
        features = network.features(batch.labeled.images)
        losses = self.labeled_loss(network, features, batch.labeled)

        learns_from_weak = self.projection is not None and not config.contrast_sg
        with nullcontext() if learns_from_weak else torch.no_grad():
            weak_maps = network.encode(unlabeled.weak)
        with torch.no_grad():  # the decoder's answer is a target only
            weak_logits = at_least_float32(network.head(weak_maps))
        strong_maps = network.encode(unlabeled.strong[0])
        strong_logits = network.head(strong_maps)

        grid = strong_logits.shape[2:]
        invalid = unlabeled.pad | unlabeled.cut[0]
        valid = ~mask_on_grid(invalid, network, *grid)
        consistency = label_consistency(strong_logits, weak_logits, valid)
        losses["consistency"] = weight * config.consistency_weight * consistency
        confidence, classes = weak_logits.softmax(dim=1).max(dim=1)
        self.monitor.observe(classes, confidence, ~mask_on_grid(unlabeled.pad, network, *grid))
        if self.projection is not None:
            contrast = self._contrast(self.projection, strong_maps[-1], weak_maps[-1], weak_logits, invalid)
            losses["contrast"] = weight * config.contrast_weight * contrast
        return losses

    def _contrast(
        self, projection: nn.Module, strong: Tensor, weak: Tensor, weak_logits: Tensor, invalid: Tensor
    ) -> Tensor:
        """L_pc: the mean over the valid pixels of the deepest stage, which alone serve as anchors and as negatives.

        A pixel is valid where it is neither pad nor cut.
        """
        count, _, height, width = strong.shape
        valid = ~mask_on_grid(invalid, self.network, height, width).flatten()
        probabilities = functional.adaptive_avg_pool2d(weak_logits.softmax(dim=1), (height, width))
        image_index = torch.arange(count, device=valid.device).repeat_interleave(height * width)
        weights = negative_weights(self.config.sampling, _rows(probabilities), image_index)
        negatives = sample_negatives(weights, valid, self.config.negatives, torch.default_generator)
        del weights  # an [N, N] that would otherwise live on beside the similarities
        # Without a negative the loss of an anchor is exactly 0, and so is its gradient. Dropping the rows instead would
        # have to wait for the GPU to count them.
        negatives.masked_fill_(~valid.unsqueeze(1), -1)
        anchors, positives = _rows(projection(strong)), _rows(projection(weak))
        if self.config.contrast_sg:
            positives = positives.detach()
        loss = pixel_contrast(anchors, positives, positives, negatives, self.config.temperature)
        return loss * (valid.numel() / valid.sum().clamp(min=1))

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The student's prediction."""
        return written_labels(self.network, "student", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student is its own teacher."""
        return {"student": self.network}


def label_consistency(strong_logits: Tensor, weak_logits: Tensor, valid: Tensor) -> Tensor:
    """Squared l2 distance of class probabilities, summed over classes, mean over valid pixels.

    Args:
        strong_logits: `[B, C, h, w]`.
        weak_logits: `[B, C, h, w]`, the target; no gradient flows there.
        valid: bool `[B, h, w]`, neither pad nor cut.
    """
    strong = at_least_float32(strong_logits).softmax(dim=1)
    weak = at_least_float32(weak_logits.detach()).softmax(dim=1)
    return masked_mean((strong - weak).square().sum(dim=1), torch.ones_like(valid), valid)


def pixel_contrast(
    anchors: Tensor, positives: Tensor, candidates: Tensor, negative_index: Tensor, temperature: float
) -> Tensor:
    """InfoNCE of every anchor against its positive and its sampled negatives: a scalar, the mean over all anchors.

    An anchor without negatives contributes 0 and stays in the mean. One `[N, M]` similarity matrix is computed and
    gathered from: 76 MB at N = M = 4356 (four crops of 513 at stride 16). Gathering the vectors themselves would take
    `[N, K, D]`, 446 MB with 200 negatives of 128.

    Args:
        anchors: `[N, D]` before normalization.
        positives: `[N, D]` before normalization; row i belongs to anchor i.
        candidates: `[M, D]` before normalization.
        negative_index: int `[N, K]` into candidates; a negative number is an empty slot.
        temperature: tau.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = functional.normalize(at_least_float32(anchors), dim=1)
        positives = functional.normalize(at_least_float32(positives), dim=1)
        candidates = functional.normalize(at_least_float32(candidates), dim=1)
        positive = (anchors * positives).sum(dim=1, keepdim=True)  # [N, 1]
        negatives = (anchors @ candidates.t()).gather(1, negative_index.long().clamp(min=0))  # [N, K]
        negatives = negatives.masked_fill(negative_index < 0, -torch.inf)
        logits = torch.cat([positive, negatives], dim=1) / temperature
        losses = logits.logsumexp(dim=1) - logits[:, 0]
        return losses.sum() / max(len(losses), 1)


def _rows(maps: Tensor) -> Tensor:
    """`[B, D, h, w]` -> `[B h w, D]`."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
