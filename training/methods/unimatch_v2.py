"""UniMatch V2: an EMA teacher, and two strong views that see complementary halves of the encoder's channels.

Yang et al., "UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation", 2024. Published with a DINOv2
encoder and a DPT decoder, which the recipe chooses; the method works on any network.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import Batch, ImageDataset, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import unimatch_view
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.methods.ema import EmaConfig, EmaTeacher
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import HardLabelConfig, HardLabelLoss, pseudo_labels, written_labels
from semseg_app.training.methods.unimatch import mixed_views


class UniMatchV2Ema(EmaConfig):
    """Follows faster than other teachers do."""

    momentum: float = Field(default=0.996, ge=0, le=1)
    """What the teacher keeps of itself in each step; nearer to 1 is slower and steadier."""


class UniMatchV2Config(HardLabelConfig):
    """The defaults are the published ones."""

    name: Literal["unimatch-v2"] = "unimatch-v2"
    ema: UniMatchV2Ema = UniMatchV2Ema()
    """The teacher, a moving average of the student."""
    mix_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of a CutMix box, for each image of each strong view by itself."""
    intact: float = Field(default=0.5, ge=0, le=1)
    """Share of the images, drawn anew every step, whose channels are not dropped."""


class UniMatchV2(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor
    strong_views = (unimatch_view, unimatch_view)

    def __init__(self, config: UniMatchV2Config, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        self.teacher = EmaTeacher(network, config.ema)
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and `strong`: (L_x + (L_s1 + L_s2) / 2) / 2. Labels are the teacher's, in eval mode.

        Labeled images and strong views (both as one batch) are two passes, which matters where there is batch norm.
        """
        losses = self.labeled_loss(self.network, self.network.features(batch.labeled.images), batch.labeled)
        assert batch.unlabeled is not None
        weak, pad = batch.unlabeled.weak, batch.unlabeled.pad
        height, width = pad.shape[1:]
        pseudo = pseudo_labels(self.network, self.teacher(weak), height, width)
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)
        views = mixed_views(batch.unlabeled, pseudo, self.config.mix_probability)
        maps = self.network.encode(torch.cat([view.images for view in views]))
        dropped = complementary_dropout(maps, self.config.intact)
        # `head`, not `decode`: auxiliary heads have nothing to learn here.
        logits = self.network.upsample(self.network.head(dropped), height, width).chunk(2)
        strong = [self.hard_label_loss(one, view) for one, view in zip(logits, views, strict=True)]
        losses["strong"] = self.config.unlabeled_weight(step) / 2 * torch.stack(strong).sum()
        return {name: value / 2 for name, value in losses.items()}

    def after_step(self, step: int) -> None:
        """The teacher follows the student."""
        self.teacher.follow(self.network, step)

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The teacher's prediction."""
        return written_labels(self.teacher, "teacher", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The teacher is what this method delivers; the student is evaluated beside it."""
        return {"teacher": self.teacher.network, "student": self.network}


def complementary_dropout(maps: list[Tensor], intact: float) -> list[Tensor]:
    """The encoder's maps of two strong views, `[2 B, C_s, h, w]` each, times 2 M for one and 2 (1 - M) for the other.

    M is a fair coin for each image and channel. As in the released code, stages of equal width share it (the blocks of
    a ViT write to the same channels), and `intact * B` images (rounded down, in both views) keep all channels: the
    network must also work without dropout. Map 0, the image itself, is left whole.
    """
    count = len(maps[0]) // 2
    whole = torch.randperm(count)[: int(intact * count)]
    factors: dict[int, Tensor] = {}
    for channels in sorted({one.shape[1] for one in maps[1:]}):
        first = 2.0 * torch.randint(2, (count, channels))
        first[whole] = 1
        factors[channels] = torch.cat([first, 2 - first])[:, :, None, None].to(maps[0].device, non_blocking=True)
    return [maps[0], *(one * factors[one.shape[1]].to(one.dtype) for one in maps[1:])]
