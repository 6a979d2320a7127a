"""FixMatch for segmentation: the student labels its own weak view and learns the confident pixels on a strong one.

Sohn et al., "FixMatch", NeurIPS 2020, in the form of Yang et al., "Revisiting Weak-to-Strong Consistency in
Semi-Supervised Semantic Segmentation" (UniMatch), CVPR 2023, section 3.1. There is no EMA teacher.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.mixing import Mix, MixBatch, mix
from semseg_app.training.data.streams import Batch, ImageDataset, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import STRONG_VIEWS, StrongViewName
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import (
    HardLabelConfig,
    HardLabelLoss,
    pseudo_labels,
    without_dropout,
    written_labels,
)


class FixMatchConfig(HardLabelConfig):
    """The defaults are those of the published VOC runs; Cityscapes takes threshold 0."""

    name: Literal["fixmatch"] = "fixmatch"
    strong: StrongViewName = "unimatch"
    """The strong view of unlabeled photos, by the paper whose it is; none = the weak view."""
    mix: Mix = "unimatch"
    """How strong views are mixed: CutMix of S4Former (half), UniMatch or French et al., ClassMix (class), or none."""
    mix_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of mixing; `half` tosses one coin per batch, `unimatch` and `class` one per image."""


class FixMatch(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor

    def __init__(self, config: FixMatchConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        self.strong_views = (STRONG_VIEWS[config.strong],)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and `unsupervised`, each at half weight (equation 1 and the code).

        Labeled and weak images share one forward pass and its batch statistics; labels come from that pass.
        """
        assert batch.unlabeled is not None
        images = torch.cat([batch.labeled.images, batch.unlabeled.weak])
        with without_dropout(self.network):
            first, rest = self.network.features(images).split(len(batch.labeled.images))
        losses = self.labeled_loss(self.network, first, batch.labeled)
        pad, cut = batch.unlabeled.pad, batch.unlabeled.cut[0]
        pseudo = pseudo_labels(self.network, rest.logits, *pad.shape[1:])
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)
        own = MixBatch(batch.unlabeled.strong[0], pseudo.labels, pseudo.confidence, pad, cut)
        mixed = mix(self.config.mix, own, self.network.spec.num_classes, self.config.mix_probability)
        loss = self.hard_label_loss(self.network.full_logits(mixed.images), mixed)
        losses["unsupervised"] = self.config.unlabeled_weight(step) * loss
        return {name: value / 2 for name, value in losses.items()}

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The student's prediction."""
        return written_labels(self.network, "student", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student is its own teacher."""
        return {"student": self.network}
