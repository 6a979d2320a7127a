"""AugSeg: mean teacher with strong views of random intensity and CutMix that gives unsure images true labels.

Zhao et al., "Augmentation Matters: A Simple-yet-Effective Approach to Semi-supervised Semantic Segmentation", 2023.
Unlike the released code, padding is not learned from.
"""

from typing import Literal

import torch
from torch import Tensor

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.mixing import MixBatch, adaptive_cutmix, certainty
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import augseg_view
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.losses.pseudo_label import Reduction
from semseg_app.training.methods.ema import EmaConfig, EmaTeacher
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import HardLabelConfig, HardLabelLoss, pseudo_labels, written_labels


class AugSegConfig(HardLabelConfig):
    """The defaults are those of the published VOC runs, but for `ema.copy_steps`, which is an epoch's length there.
    Cityscapes takes momentum 0.996, threshold 0, OHEM, no weak."""

    name: Literal["augseg"] = "augseg"
    ema: EmaConfig = EmaConfig()
    """The teacher, a moving average of the student."""
    weak_in_batch: bool = True
    """The student's batch also holds the weak views, without a loss: batch norm then sees images as they are. It costs
    a third of the student's pass, and a network without batch norm gains nothing by it."""
    reduction: Reduction = "all"
    """What the sum over confident pixels is divided by: all pixels of the batch, or the valid ones."""


class AugSeg(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor
    strong_views = (augseg_view,)

    def __init__(self, config: AugSegConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        self.teacher = EmaTeacher(network, config.ema)
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and `unsupervised`. The teacher labels the weak view in eval mode.

        Labeled, mixed and weak images are one pass of the student, because they share batch statistics (with several
        processes each passes its own share). An image's score is a mean over the network's own grid.
        """
        assert batch.unlabeled is not None
        weak, pad = batch.unlabeled.weak, batch.unlabeled.pad
        height, width = pad.shape[1:]
        teacher = self.teacher(weak)
        pseudo = pseudo_labels(self.network, teacher, height, width)
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)
        unlabeled = MixBatch(batch.unlabeled.strong[0], pseudo.labels, pseudo.confidence, pad, batch.unlabeled.cut[0])
        helpers = _with_true_labels(batch.labeled)
        mixed = adaptive_cutmix(unlabeled, helpers, certainty(teacher), torch.default_generator)

        parts = [batch.labeled.images, mixed.images, *([weak] if self.config.weak_in_batch else [])]
        first, rest = self.network.features(torch.cat(parts)).split(len(batch.labeled.images))
        losses = self.labeled_loss(self.network, first, batch.labeled)
        loss = self.hard_label_loss(self.network.upsample(rest.logits[: len(weak)], height, width), mixed)
        return losses | {"unsupervised": self.config.unlabeled_weight(step) * loss}

    def after_step(self, step: int) -> None:
        """The teacher follows the student."""
        self.teacher.follow(self.network, step)

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The teacher's prediction."""
        return written_labels(self.teacher, "teacher", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The teacher is what this method delivers; the student is evaluated beside it."""
        return {"teacher": self.teacher.network, "student": self.network}


def _with_true_labels(labeled: LabeledBatch) -> MixBatch:
    """Labeled crops as a source of pixels: sure of every label; ignored pixels stay ignored."""
    sure = torch.ones(labeled.labels.shape, device=labeled.labels.device)
    return MixBatch(labeled.images, labeled.labels, sure, labeled.pad, torch.zeros_like(labeled.pad))
