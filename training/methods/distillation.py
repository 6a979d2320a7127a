"""Distillation: a student learns from labels and from a trained teacher, also on unlabeled images if asked.

The distillers themselves, each with its paper, are in training/distill/.
"""

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.models import Features, SegmentationNetwork, load
from semseg_app.training.data import Batch, Pool, StrongView
from semseg_app.training.distill.kd import KDConfig, kd
from semseg_app.training.labeled_loss import LabeledLoss, LabeledLossConfig


class DistillationConfig(LabeledLossConfig):
    """Which teacher, and what of it the student follows."""

    name: Literal["distillation"] = "distillation"
    teacher: Path
    """A model folder with the classes of the data."""
    kd: KDConfig = KDConfig()
    use_unlabeled: bool = False
    """Follow the teacher on data.unlabeled too: that needs no labels."""


class Distillation(nn.Module):
    """See `semseg_app.training.methods` for what the loop asks of a method."""

    strong_views: tuple[StrongView, ...] = ()

    def __init__(self, config: DistillationConfig, network: SegmentationNetwork, labeled: Pool):
        super().__init__()
        self.config = config
        self.uses_unlabeled = config.use_unlabeled
        self.network = network
        data = labeled.data
        classes = read_config(config.teacher).labels.classes
        if classes != data.info.classes:
            raise UserError(
                f"method.teacher: {config.teacher} knows {', '.join(classes)}, but {data.root} has "
                f"{', '.join(data.info.classes)}; train the teacher on the same classes"
            )
        self.teacher = load(config.teacher).requires_grad_(False)
        self.labeled_loss = LabeledLoss(config, labeled)

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in eval mode: its batch statistics are what it was trained to."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`supervised`, `auxiliary` where the network has such heads, and `kd`."""
        images = batch.labeled.images
        labeled = len(images)
        if batch.unlabeled is not None:
            images = torch.cat([images, batch.unlabeled.weak])
        features = self.network.features(images)
        first = Features(
            [],
            features.decoder[:labeled],
            features.logits[:labeled],
            [logits[:labeled] for logits in features.auxiliary],
        )
        losses = self.labeled_loss(self.network, first, batch.labeled)
        student = features.logits
        with torch.no_grad():
            teacher = self.teacher(images).float()
        if teacher.shape[2:] != student.shape[2:]:
            teacher = functional.interpolate(teacher, size=student.shape[2:], mode="bilinear", align_corners=False)
        return losses | {"kd": self.config.kd.weight * kd(student, teacher, self.config.kd.temperature)}

    def after_step(self, step: int) -> None:
        """Nothing to update."""

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student; its teacher has a model folder already."""
        return {"student": self.network}
