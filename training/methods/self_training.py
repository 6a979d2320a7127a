"""Self-training: a fresh student learns from labels and from files that an earlier teacher wrote.

The control of Zou et al., "PseudoSeg", ICLR 2021, after Zoph et al., "Rethinking Pre-training and Self-training",
NeurIPS 2020: train a teacher on the labeled images, write its labels where its largest probability is above 0.5
(`semseg data pseudo-label`), train a student from the start on both. The papers leave the mixing open; here labeled and
pseudo-labeled images come one to one, in weak views, with the same losses at half weight each.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig


class SelfTrainingConfig(LabeledLossConfig):
    """The labeled losses, which pseudo-labeled images get too, and where the pseudo labels are."""

    name: Literal["self-training"] = "self-training"
    pseudo_labels: Path
    """A folder of `semseg data pseudo-label` with a mask for every image of data.unlabeled; the loop reads them."""

    def pseudo_label_folder(self) -> Path:
        """Where unlabeled images get their labels from."""
        return self.pseudo_labels


class SelfTraining(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True

    def __init__(self, config: SelfTrainingConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.network = network
        self.labeled_loss = LabeledLoss(config, labeled, network)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and the same of the pseudo-labeled images, each a mean over its own labeled pixels, at
        half weight. Both share one forward pass and its batch statistics.
        """
        assert batch.unlabeled is not None
        assert batch.unlabeled.labels is not None
        weak, labels = batch.unlabeled.weak, batch.unlabeled.labels
        first, rest = self.network.features(torch.cat([batch.labeled.images, weak])).split(len(batch.labeled.images))
        taught = LabeledBatch(weak, labels, batch.unlabeled.pad, (labels != IGNORE).sum())
        losses = self.labeled_loss(self.network, first, batch.labeled)
        pseudo = self.labeled_loss(self.network, rest, taught)
        losses |= {f"pseudo_{name}": value for name, value in pseudo.items()}
        return {name: value / 2 for name, value in losses.items()}

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student; its teacher has a model folder already."""
        return {"student": self.network}
