"""S4Former: semi-supervised vision transformers with PatchShuffle, PASA and NCR (training/patch_operators.py).

Hu et al., "Training Vision Transformers for Semi-Supervised Semantic Segmentation", CVPR 2024, on four hosts: its own
base, UniMatch, AugSeg, and FixMatch for its rows on a ResNet. Where the paper and its released code differ, the code is
followed.
"""

import warnings
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.mixing import Mix, MixBatch, adaptive_cutmix, certainty, mix
from semseg_app.training.data.streams import Batch, ImageDataset, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import STRONG_VIEWS, StrongViewName, with_cut_out
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.losses.pseudo_label import Reduction
from semseg_app.training.methods.ema import EmaConfig, EmaTeacher
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import (
    HardLabelConfig,
    HardLabelLoss,
    pseudo_labels,
    without_dropout,
    written_labels,
)
from semseg_app.training.patch_operators import (
    PasaForm,
    all_class_consistency,
    draw_permutation,
    mix_tiles,
    negative_class_ranking,
    pasa_bias,
    patch_shuffle,
    restore_tokens,
    softened_cross_entropy,
)

if TYPE_CHECKING:
    from semseg_app.training.recipe import Recipe


class ConstantEmaConfig(EmaConfig):
    """Its own default, so that a recipe which sets the momentum alone keeps it."""

    warm_up: bool = False
    """Follow faster in the first steps: min(1 - 1 / (step + 1), momentum); the published teacher does not."""


Host = Literal["base", "unimatch", "augseg", "fixmatch"]
HOST_VIEWS: dict[Host, StrongViewName] = {
    "base": "photometric",
    "unimatch": "unimatch",
    "augseg": "augseg",
    "fixmatch": "unimatch",
}


class S4FormerConfig(HardLabelConfig):
    """Three parts, each with its switch; all off is the host alone. Defaults are the released code's."""

    name: Literal["s4former"] = "s4former"
    host: Host = "base"
    """What is built upon. base: EMA teacher + CutMix (S4Former-Base). unimatch: no EMA, two strong streams, and the
    PASA stream, on the first strong view, in place of feature dropout. augseg: EMA teacher, its views, its CutMix.
    fixmatch: no EMA, one strong stream with UniMatch's view and boxes (supplement, table S5, with pasa: false)."""
    ema: ConstantEmaConfig = ConstantEmaConfig()
    """The teacher, a moving average of the student."""
    mix: Mix | None = None
    """How strong views are mixed; null = as the released code does it: half for base and unimatch, unimatch for
    fixmatch, and AugSeg's own, the only one for that host. `class` is ClassMix, for table S3 of the supplement."""
    mix_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of mixing, for all hosts but augseg; `half` tosses one coin for each strong stream."""
    cutout_size: int = Field(default=0, ge=0)
    """Side in pixels of a square cut out of each strong view (supplement, table S3); 0 = none."""
    reduction: Reduction = "all"
    """What the sum over confident pixels is divided by: all pixels of the batch, or the valid ones."""

    shuffle: bool = True
    """PatchShuffle of the mixed streams."""
    shuffle_block: int = Field(default=128, ge=1)
    """Side of a block in pixels: 8 patches of 16. Must divide the crop, and be a multiple of the network's stride."""
    shuffle_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that the patches of a block change places."""
    mix_unmix: bool = False
    """Exchange such blocks between the images of the batch too, and put them back in the maps of the encoder
    (supplement, table S3, Mix/UnMix)."""

    pasa: bool = True
    """A stream of its own, without mixing, whose self-attention is biased toward unsure patches."""
    pasa_weight: float = Field(default=5.0, ge=0)
    """Weight of the bias (alpha); the published configs use 5, the code's default is 50."""
    pasa_confidence: Literal["binary", "soft"] = "binary"
    """A patch's confidence: the share of its pixels above the threshold (code), or their mean probability (paper)."""
    pasa_form: PasaForm = "key"
    """alpha * u_j in the rows of the unsure half; or one of the supplement's: product, alpha * u_i * u_j; rand, alpha *
    a random number; reverse1 and reverse2, sure patches look at sure ones and unsure at sure ones."""

    ncr: bool = True
    """Negative-class ranking beside each mixed stream."""
    ncr_distance: Literal["l2", "squared", "kl", "soft", "all"] = "l2"
    """How far student and teacher are apart over the classes that a pixel is not. In its place, the supplement's: soft,
    cross-entropy at temperature 2; all, squared distance over all classes (All-CR)."""
    ncr_mix_logits: bool = True
    """Mix the teacher's logits like the images; False compares with the unmixed ones, as the code does by mistake."""
    ncr_on_pasa: bool = False
    """On the PASA stream too, as the paper's algorithm says and its code does not."""

    def check(self, recipe: "Recipe") -> None:
        """Blocks of PatchShuffle fill the crop."""
        block = self.shuffle_block
        if (self.shuffle or self.mix_unmix) and any(side % block for side in recipe.view.crop):
            near = [max(1, round(side / block)) * block for side in recipe.view.crop]
            raise ValueError(f"view.crop {list(recipe.view.crop)} is not filled by shuffle_block {block}; use {near}")
        if self.mix is not None and self.host == "augseg":
            raise ValueError("method.mix: the host augseg mixes in its own way; leave mix out, or take another host")


class S4Former(Method):
    """The method around one network; see the module for the paper.

    Memory beside the network's own: with `ncr` the teacher's and the student's logits and their softmax at full
    resolution, about 6 * B * C * H * W floats (0.26 GB for 2 crops of 512 and 21 classes).
    """

    uses_unlabeled = True
    monitor: PseudoLabelMonitor

    def __init__(self, config: S4FormerConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        _refuse_network(config, network)
        self.config = config
        self.network = network
        self.teacher = EmaTeacher(network, config.ema) if config.host in ("base", "augseg") else None
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.hard_label_loss = HardLabelLoss(config, labeled)
        view = STRONG_VIEWS[HOST_VIEWS[config.host]]
        if config.cutout_size:
            view = partial(with_cut_out, view=view, size=config.cutout_size)
        self.strong_views = (view, view) if config.host == "unimatch" else (view,)
        self.monitor = config.monitor(labeled)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses, `mixed`, and `pasa` and `ncr` where they are on."""
        config = self.config
        assert batch.unlabeled is not None
        weak, pad, strong = batch.unlabeled.weak, batch.unlabeled.pad, batch.unlabeled.strong
        height, width = pad.shape[1:]
        if self.teacher is None:
            images = torch.cat([batch.labeled.images, weak])
            with without_dropout(self.network):
                features, rest = self.network.features(images).split(len(batch.labeled.images))
            pseudo = pseudo_labels(self.network, rest.logits, height, width)
        else:
            features = self.network.features(batch.labeled.images)
            pseudo = pseudo_labels(self.network, self.teacher(weak), height, width)
        losses = self.labeled_loss(self.network, features, batch.labeled)
        self.monitor.observe(pseudo.labels, pseudo.confidence, ~pad)

        # Half of the weight goes to the PASA stream, the rest is shared by the mixed ones.
        each = (0.5 if config.pasa else 1.0) / len(strong)
        mixed_terms, ncr_terms = [], []
        for view, cut in zip(strong, batch.unlabeled.cut, strict=True):
            own = MixBatch(view, pseudo.labels, pseudo.confidence, pad, cut, pseudo.logits if config.ncr else None)
            mixed = self._mix(own, batch, pseudo.logits)
            student = self._shuffled_logits(mixed.images)
            mixed_terms.append(self.hard_label_loss(student, mixed))
            if config.ncr:
                ncr_terms.append(self._ncr(student, mixed if config.ncr_mix_logits else own, mixed))
        unlabeled = {"mixed": each * torch.stack(mixed_terms).sum()}
        if config.pasa:
            view, cut = strong[0], batch.unlabeled.cut[0]
            own = MixBatch(view, pseudo.labels, pseudo.confidence, pad, cut, pseudo.logits)
            student = self._biased_logits(view, pseudo.confidence)
            unlabeled["pasa"] = 0.5 * self.hard_label_loss(student, own)
            if config.ncr and config.ncr_on_pasa:
                ncr_terms.append(0.5 / each * self._ncr(student, own, own))
        if config.ncr:
            unlabeled["ncr"] = each * torch.stack(ncr_terms).sum()
        weight = config.unlabeled_weight(step)
        losses |= {name: weight * loss for name, loss in unlabeled.items()}
        # FixMatch gives half of the weight to each kind of images, so its published rate belongs to the halves.
        return {name: loss / 2 for name, loss in losses.items()} if config.host == "fixmatch" else losses

    def after_step(self, step: int) -> None:
        """The teacher, where the host has one, follows the student."""
        if self.teacher is not None:
            self.teacher.follow(self.network, step)

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """The prediction of the teacher, or of the student in the host unimatch."""
        if self.teacher is None:
            return written_labels(self.network, "student", unlabeled)
        return written_labels(self.teacher, "teacher", unlabeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The published figures are the student's; the teacher is evaluated beside it."""
        teacher = {} if self.teacher is None else {"teacher": self.teacher.network}
        return {"student": self.network} | teacher

    def _mix(self, own: MixBatch, batch: Batch, teacher_logits: Tensor) -> MixBatch:
        classes = self.network.spec.num_classes
        if self.config.host != "augseg":
            usual: Mix = "unimatch" if self.config.host == "fixmatch" else "half"
            return mix(self.config.mix or usual, own, classes, self.config.mix_probability)
        labels = batch.labeled.labels
        # True labels have no logits: zeros, which NCR leaves out.
        logits = None
        if own.teacher_logits is not None:
            logits = torch.zeros_like(own.teacher_logits[:1]).expand(len(labels), -1, -1, -1)
        sure = torch.ones(labels.shape, device=labels.device)
        uncut = torch.zeros_like(batch.labeled.pad)
        helpers = MixBatch(batch.labeled.images, labels, sure, batch.labeled.pad, uncut, logits)
        return adaptive_cutmix(own, helpers, certainty(teacher_logits), torch.default_generator)

    def _shuffled_logits(self, images: Tensor) -> Tensor:
        """Logits at full resolution, every pixel at its own place, of images that the encoder saw shuffled."""
        config, random = self.config, torch.default_generator
        if not (config.shuffle or config.mix_unmix):
            return self.network.full_logits(images)
        height, width = images.shape[2:]
        block = config.shuffle_block
        blocks = (height // block) * (width // block)
        if config.mix_unmix:
            givers = draw_permutation(blocks, len(images), random, probability=1.0).to(images.device)
            images = mix_tiles(images, givers, block)
        if config.shuffle:
            order = draw_permutation(len(images), blocks, random, config.shuffle_probability).to(images.device)
            images = patch_shuffle(images, order, block)
        maps = self.network.encode(images)
        if config.shuffle:
            maps = [_restored(stage, order, block * stage.shape[2] // height) for stage in maps]
        if config.mix_unmix:
            takers = givers.argsort(dim=1)
            maps = [mix_tiles(stage, takers, block * stage.shape[2] // height) for stage in maps]
        return self.network.upsample(self.network.head(maps), height, width)

    def _biased_logits(self, images: Tensor, confidence: Tensor) -> Tensor:
        height, width = images.shape[2:]
        certain = confidence if self.config.pasa_confidence == "soft" else (confidence >= self.config.threshold).float()
        stride = self.network.stride
        certain = functional.pad(certain, (0, -width % stride, 0, -height % stride), value=1.0)
        patch = self.network.attention_patch
        assert patch is not None
        bias = pasa_bias(self.config.pasa_form, certain, patch, self.config.pasa_weight)
        maps = self.network.encode(images, bias)
        return self.network.upsample(self.network.head(maps), height, width)

    def _ncr(self, student: Tensor, teacher: MixBatch, target: MixBatch) -> Tensor:
        assert teacher.teacher_logits is not None
        learned = (target.confidence >= self.config.threshold) & target.valid & (teacher.teacher_logits != 0).any(dim=1)
        labels = torch.where(learned, target.labels, IGNORE)
        distance = self.config.ncr_distance
        if distance == "soft":
            return softened_cross_entropy(student, labels, IGNORE)
        if distance == "all":
            return all_class_consistency(student, teacher.teacher_logits, labels, IGNORE)
        return negative_class_ranking(student, teacher.teacher_logits, labels, IGNORE, distance)


def _restored(stage: Tensor, permutation: Tensor, block: int) -> Tensor:
    """A map `[B, C, h, w]` of shuffled images with its blocks, `block` cells wide, back in place; C may be 0."""
    if not stage.shape[1]:
        return stage
    grid = (stage.shape[2], stage.shape[3])
    tokens = restore_tokens(stage.flatten(2).transpose(1, 2), permutation, grid, block)
    return tokens.transpose(1, 2).reshape(stage.shape)


def _refuse_network(config: S4FormerConfig, network: SegmentationNetwork) -> None:
    encoder = network.spec.encoder
    if network.attention_patch is None:
        if config.pasa:
            raise UserError(
                f"method.pasa: {encoder} has no self-attention to bias; set method.pasa=false, or use a transformer "
                "(architecture setr or segformer with a mit_b0 to mit_b5 encoder)"
            )
        harmful = [name for name in ("shuffle", "ncr") if getattr(config, name)]
        if harmful:
            warnings.warn(
                f"method.{' and method.'.join(harmful)} on the CNN {encoder}: made for transformers; on a ResNet-101 "
                "PatchShuffle was published with +4.0, -0.4, -0.2 and NCR with -3.8, -3.6, -1.0 points of mIoU",
                stacklevel=3,
            )
    if (config.shuffle or config.mix_unmix) and config.shuffle_block % network.stride:
        near = max(1, round(config.shuffle_block / network.stride)) * network.stride
        raise UserError(
            f"method.shuffle_block: {config.shuffle_block} is no multiple of the network's stride {network.stride}; "
            f"use {near}"
        )
