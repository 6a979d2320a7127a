"""Mean teacher with mixed images: an EMA teacher labels the weak view, the student learns it on a mixed strong view.

With its defaults this is S4Former-Base (Hu et al., CVPR 2024, supplement, table S3: mean teacher + CutMix + confidence
threshold). With `loss: squared`, `mix: french` it is CutMix-Seg (French et al., "Semi-supervised semantic segmentation
needs strong, varied perturbations", BMVC 2020), after Tarvainen & Valpola, "Mean teachers", 2017.
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
from semseg_app.training.losses.pseudo_label import at_least_float32, masked_mean
from semseg_app.training.methods.ema import EmaConfig, EmaTeacher
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import HardLabelConfig, HardLabelLoss, pseudo_labels, written_labels


class MeanTeacherConfig(HardLabelConfig):
    """The defaults are S4Former-Base's; its constant EMA momentum and its reduction are presets of the recipes."""

    name: Literal["mean-teacher"] = "mean-teacher"
    ema: EmaConfig = EmaConfig()
    """The teacher, a moving average of the student."""
    strong: StrongViewName = "photometric"
    """The strong view of unlabeled photos, by the paper whose it is; none = the weak view."""
    mix: Mix = "half"
    """How strong views are mixed: CutMix of S4Former (half), UniMatch or French et al., ClassMix (class), or none."""
    mix_probability: float = Field(default=0.5, ge=0, le=1)
    """`half` tosses one coin per batch, `unimatch` and `class` one per image; `french` always mixes."""
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    """To hard labels, pixel by pixel above the threshold; or squared distance of probabilities, over all pixels, times
    the share of pixels above the threshold (French et al., section 3.2)."""


class MeanTeacher(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor

    def __init__(self, config: MeanTeacherConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        self.teacher = EmaTeacher(network, config.ema)
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        self.strong_views = (STRONG_VIEWS[config.strong],)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and `unsupervised`."""
        losses = self.labeled_loss(self.network, self.network.features(batch.labeled.images), batch.labeled)
        assert batch.unlabeled is not None
        weak, pad = batch.unlabeled.weak, batch.unlabeled.pad
        height, width = pad.shape[1:]
        pseudo = pseudo_labels(self.network, self.teacher(weak), height, width)
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)

        # Squared distance needs the teacher's logits mixed like the images.
        logits = pseudo.logits if self.config.loss == "squared" else None
        own = MixBatch(batch.unlabeled.strong[0], pseudo.labels, pseudo.confidence, pad, batch.unlabeled.cut[0], logits)
        mixed = mix(self.config.mix, own, self.network.spec.num_classes, self.config.mix_probability)
        student = self.network.full_logits(mixed.images)
        if mixed.teacher_logits is None:
            loss = self.hard_label_loss(student, mixed)
        else:
            distance = at_least_float32(student).softmax(dim=1) - mixed.teacher_logits.softmax(dim=1)
            everywhere = torch.ones_like(mixed.valid)
            loss = masked_mean(distance.square().sum(dim=1), everywhere, mixed.valid, self.config.reduction)
            sure = (mixed.confidence >= self.config.threshold).float()
            loss = loss * masked_mean(sure, everywhere, mixed.valid, self.config.reduction)
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
