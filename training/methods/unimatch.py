"""UniMatch: FixMatch for pixels with two strong views and a stream of dropped features.

Yang et al., "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation", CVPR 2023, section 3.3.
Mixing partners are those of the reversed batch, as in the authors' later code. Dropout spares the labeled images, whose
dropped features the released code decodes too, without a use.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.mixing import MixBatch, partners, paste, unimatch_boxes
from semseg_app.training.data.streams import Batch, ImageDataset, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import unimatch_view
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import (
    HardLabelConfig,
    HardLabelLoss,
    PseudoLabels,
    pseudo_labels,
    without_dropout,
    written_labels,
)


class UniMatchConfig(HardLabelConfig):
    """The defaults are those of the published VOC runs; Cityscapes takes threshold 0 and OHEM."""

    name: Literal["unimatch"] = "unimatch"
    mix_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of a CutMix box, for each image of each strong view by itself."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the channels that the feature stream loses, at every encoder stage."""


class UniMatch(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor
    strong_views = (unimatch_view, unimatch_view)

    def __init__(self, config: UniMatchConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses, `strong` and `feature`: (L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp) / 2.

        Labeled and weak images share one pass and its batch statistics. The student is its own teacher, in train mode:
        labels are the clean weak logits of that pass, detached.
        """
        assert batch.unlabeled is not None
        weak, pad, labeled = batch.unlabeled.weak, batch.unlabeled.pad, len(batch.labeled.images)
        height, width = pad.shape[1:]
        with without_dropout(self.network):
            clean, dropped = self._clean_and_dropped(torch.cat([batch.labeled.images, weak]), labeled)
        first, rest = clean.split(labeled)
        losses = self.labeled_loss(self.network, first, batch.labeled)
        pseudo = pseudo_labels(self.network, rest.logits, height, width)
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)
        views = mixed_views(batch.unlabeled, pseudo, self.config.mix_probability)
        logits = self.network.full_logits(torch.cat([view.images for view in views])).chunk(2)
        strong = [self.hard_label_loss(one, view) for one, view in zip(logits, views, strict=True)]
        whole = MixBatch(weak, pseudo.labels, pseudo.confidence, pad, torch.zeros_like(pad))
        feature = self.hard_label_loss(self.network.upsample(dropped.logits, height, width), whole)
        weight = self.config.unlabeled_weight(step)
        losses["strong"] = weight / 4 * torch.stack(strong).sum()
        losses["feature"] = weight / 2 * feature
        return {name: value / 2 for name, value in losses.items()}

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The student's prediction."""
        return written_labels(self.network, "student", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student is its own teacher."""
        return {"student": self.network}

    def _clean_and_dropped(self, images: Tensor, labeled: int) -> tuple[Features, Features]:
        """Images `[L + U, 3, H, W]` -> their features, and those of the last U with channels dropped.

        The encoder runs once; both then go through the decoder as one batch. The image itself (map 0) is left whole.
        """
        maps = self.network.encode(images)
        weak = [maps[0][labeled:], *(functional.dropout2d(one[labeled:], self.config.dropout) for one in maps[1:])]
        both = self.network.decode([torch.cat(pair) for pair in zip(maps, weak, strict=True)])
        return both.split(len(images))


def mixed_views(unlabeled: UnlabeledBatch, pseudo: PseudoLabels, probability: float) -> list[MixBatch]:
    """Every strong view with CutMix boxes of its own from the reversed batch; labels and masks go with the pixels."""
    views = []
    for images, cut in zip(unlabeled.strong, unlabeled.cut, strict=True):
        own = MixBatch(images, pseudo.labels, pseudo.confidence, unlabeled.pad, cut)
        batch, height, width = own.labels.shape
        boxes = unimatch_boxes(batch, height, width, torch.default_generator, probability)
        views.append(paste(own, partners(own), boxes))
    return views
