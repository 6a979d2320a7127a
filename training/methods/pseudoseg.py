"""PseudoSeg: soft pseudo labels fused from the decoder and from self-attention Grad-CAM (SGC).

Zou et al., "PseudoSeg: Designing Pseudo Labels for Semantic Segmentation", ICLR 2021. Where the paper and its released
code differ, the code is followed, because the published numbers came from it; each such place says so.

A step costs: labeled images forward and backward; strong views forward and backward; weak views forward without
gradient, for the decoder's opinion, and once more through the encoder in eval mode, for the class activation maps. With
image labels the weak views' pass through the encoder also goes backward. The attention over the n = h w pixels of the
deepest stage takes O(n^2) time; its memory is that of torch's fused attention.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from semseg_app.data.dataset import SegmentationData
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.data.strong_augmentation import pseudoseg_view
from semseg_app.training.losses.labeled_loss import LabeledLoss
from semseg_app.training.losses.pseudo_label import at_least_float32, mask_on_grid, soft_label_loss
from semseg_app.training.methods.guardrails import PseudoLabelMonitor
from semseg_app.training.methods.hard_labels import SemiSupervisedConfig
from semseg_app.training.methods.self_attention_cam import (
    ImageClassifier,
    SelfAttentionCam,
    cam_probabilities,
    classes_present,
    grad_cam,
    hypercolumn,
)

BACKGROUND = "background"


class PseudoSegConfig(SemiSupervisedConfig):
    """The defaults are those of the published few-label runs; with many labels gamma 0.3 and temperature 0.7."""

    name: Literal["pseudoseg"] = "pseudoseg"
    gamma: float = Field(default=0.5, ge=0, le=1)
    """Share of the decoder in the pseudo label; the rest is SGC's."""
    temperature: float = Field(default=0.5, gt=0)
    """The pseudo label is sharpened to the power 1 / temperature."""
    classifier_weight: float = Field(default=1.0, ge=0)
    """Weight of the image classifier's loss."""
    attention_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss that trains SGC on labeled images."""
    key_channels: int = Field(default=128, ge=1)
    """Width of the attention's queries and keys."""
    image_labels: Path | None = None
    """Table of the classes in each unlabeled image (training/data/image_labels.py), relative to data.root. They then
    replace the predicted classes, and train the classifier instead of the labeled crops."""
    background: str | None = None
    """The class that is no object: the classifier does not look for it, SGC gives it what no object claims. null = the
    class named "background", if there is one."""
    hypercolumn: bool = True
    """SGC attends by the last two stages of the encoder, as published; False = by the deepest alone (figure 5b)."""
    hard_labels: bool = False
    """Learn the most probable class of the pseudo label, in place of its probabilities (figure 5c)."""
    threshold: float = Field(default=0.0, ge=0, le=1)
    """With hard_labels: pixels whose pseudo label is less sure are not learned from; 0 = all are."""
    jitter: float = Field(default=0.5, ge=0, le=1)
    """Strength of the color jitter of strong views: of brightness, contrast and saturation, and half of it of hue."""
    cam_mode: Literal["eval", "train"] = "eval"
    """Batch norms while activation maps are made: eval is the released code; train saves a pass of the encoder, and is
    the better choice in the first steps from random weights, whose running statistics are not yet true."""
    cutout_size: int = Field(default=100, ge=0)
    """Side of the square that is cut out of strong views, in pixels of the crop. The paper's 50 is half of it."""

    @model_validator(mode="after")
    def _thresholds_hard_labels(self) -> Self:
        if self.threshold and not self.hard_labels:
            raise ValueError("threshold leaves hard labels out; set hard_labels too, or leave threshold out")
        return self

    def image_label_table(self) -> Path | None:
        """The classes of the unlabeled images, where they are known."""
        return self.image_labels


class PseudoSeg(Method):
    """The method around one network; see the module for the paper."""

    uses_unlabeled = True
    monitor: PseudoLabelMonitor

    def __init__(self, config: PseudoSegConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.network = network
        classes, channels = network.spec.num_classes, network.stage_channels
        self.background = background_class(config.background, labeled.data)
        self.foreground = [index for index in range(classes) if index != self.background]
        self.classifier = ImageClassifier(channels[-1], len(self.foreground))
        columns = sum(channels[-2:]) if config.hypercolumn else channels[-1]
        self.attention = SelfAttentionCam(columns, classes, self.background, config.key_channels)
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.strong_views = (partial(pseudoseg_view, cutout_size=config.cutout_size, strength=config.jitter),)
        self.monitor = PseudoLabelMonitor(config.guardrails, labeled, config.threshold)  # 0: no pixel is left out

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses, `attention`, `classifier` and `unsupervised`.

        Labeled, weak and strong images are three batches with statistics of their own, as in the code.
        """
        assert batch.unlabeled is not None
        labeled, unlabeled, config = batch.labeled, batch.unlabeled, self.config
        unlabeled_weight = config.unlabeled_weight(step)

        features = self.network.features(labeled.images)
        losses = self.labeled_loss(self.network, features, labeled)
        in_crop = classes_present(labeled.labels, self.network.spec.num_classes, self.background)
        losses["attention"] = config.attention_weight * self._attention_loss(features.stages, in_crop, labeled)

        # What the weak view is taken for. Only true image labels have something to teach the encoder here.
        true_classes = unlabeled.image_classes[:, self.foreground] if unlabeled.image_classes is not None else None
        with nullcontext() if true_classes is not None else torch.no_grad():
            weak_maps = self.network.encode(unlabeled.weak)
        with torch.no_grad():
            weak_logits = self.network.head(weak_maps)
        if true_classes is not None:
            classifier_loss = unlabeled_weight * presence_loss(self.classifier(weak_maps[-1]), true_classes)
        else:
            classifier_loss = presence_loss(self.classifier(features.stages[-1]), in_crop)
        losses["classifier"] = config.classifier_weight * classifier_loss
        cam_maps = weak_maps if config.cam_mode == "train" else encode_as_deployed(self.network, unlabeled.weak)
        # The code has one mask of valid pixels: nothing is gathered from where the strong view is cut, either.
        _, sgc_logits = self._cam_and_sgc(cam_maps, unlabeled.pad | unlabeled.cut[0], true_classes)
        sgc_logits = functional.interpolate(
            at_least_float32(sgc_logits), size=weak_logits.shape[2:], mode="bilinear", align_corners=False
        )
        target = calibrated_fusion(weak_logits, sgc_logits, config.gamma, config.temperature)
        confidence, classes = target.max(dim=1)
        if config.hard_labels:
            target = functional.one_hot(classes, target.shape[1]).movedim(3, 1).to(target.dtype)
            target = target * (confidence >= config.threshold).unsqueeze(1)

        strong_logits = self.network(unlabeled.strong[0])
        grid = strong_logits.shape[2:]
        invalid = mask_on_grid(unlabeled.pad | unlabeled.cut[0], self.network, *grid)
        losses["unsupervised"] = unlabeled_weight * soft_label_loss(strong_logits, target, ~invalid)
        self.monitor.observe(classes, confidence, ~mask_on_grid(unlabeled.pad, self.network, *grid))
        return losses

    def _attention_loss(self, stages: list[Tensor], present: Tensor, labeled: LabeledBatch) -> Tensor:
        """L_sa: SGC learns the labels. Its inputs are stopped, so nothing else learns from this."""
        cam = grad_cam(stages[-1], self.classifier.linear.weight, present)
        pad = mask_on_grid(labeled.pad, self.network, *cam.shape[2:])
        logits = at_least_float32(self.attention(self._columns(stages), cam, pad))
        full = self.network.upsample(logits, *labeled.labels.shape[1:])
        total = functional.cross_entropy(full, labeled.labels, ignore_index=IGNORE, reduction="sum")
        return total / labeled.label_count.clamp(min=1)

    @torch.no_grad()
    def _cam_and_sgc(self, maps: list[Tensor], invalid: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Grad-CAM `[B, F, h, w]` and SGC's logits `[B, C, h, w]` of unlabeled images.

        Nothing is gathered from `invalid` pixels, bool `[B, H, W]`. `present` None = the classes that the classifier
        sees.
        """
        if present is None:
            present = self.classifier(maps[-1]) >= 0  # a probability of at least 1/2
        cam = grad_cam(maps[-1], self.classifier.linear.weight, present)
        masked = mask_on_grid(invalid, self.network, *cam.shape[2:])
        return cam, self.attention(self._columns(maps), cam, masked)

    @torch.no_grad()
    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """Decoder, CAM, SGC and their calibrated fusion, as figure 2 shows them."""
        true_classes = unlabeled.image_classes[:, self.foreground] if unlabeled.image_classes is not None else None
        maps = self.network.encode(unlabeled.weak)
        decoder = at_least_float32(self.network.head(maps))
        cut = unlabeled.cut[0] if unlabeled.cut else torch.zeros_like(unlabeled.pad)
        cam, sgc = self._cam_and_sgc(maps, unlabeled.pad | cut, true_classes)
        on_grid = functional.interpolate(at_least_float32(sgc), size=decoder.shape[2:], mode="bilinear")
        return {
            "decoder": decoder.softmax(dim=1),
            "CAM": cam_probabilities(cam, self.background),
            "SGC": at_least_float32(sgc).softmax(dim=1),
            "fused": calibrated_fusion(decoder, on_grid, self.config.gamma, self.config.temperature),
        }

    def _columns(self, maps: list[Tensor]) -> Tensor:
        """What SGC attends by, on the grid of the deepest map."""
        return hypercolumn(maps) if self.config.hypercolumn else maps[-1].detach()

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The decoder alone, as in the paper: classifier and attention are for training only."""
        return {"student": self.network}


@torch.no_grad()
def calibrated_fusion(decoder_logits: Tensor, sgc_logits: Tensor, gamma: float, temperature: float) -> Tensor:
    """The soft pseudo label (section 3.2, equations 4 and 5), without gradient.

    Both are divided by one scalar, the root mean square of all their values over the batch (the paper prints the root
    of the sum, which would make every softmax uniform; the code takes the mean), mixed as
    `gamma softmax(decoder) + (1 - gamma) softmax(sgc)` and sharpened to the power 1 / temperature.

    Args:
        decoder_logits: `[B, C, h, w]`, the decoder on the weak view.
        sgc_logits: `[B, C, h, w]` on the same grid.
        gamma: share of the decoder, 0 to 1.
        temperature: above 0; 1 leaves the mixture unchanged.

    Returns:
        `[B, C, h, w]`, at least float32, sums to 1 over the classes of every pixel.
    """
    if decoder_logits.shape != sgc_logits.shape:
        raise ValueError(
            f"decoder logits {tuple(decoder_logits.shape)} and SGC logits {tuple(sgc_logits.shape)} differ in shape; "
            "resize the SGC logits to the decoder's grid first"
        )
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")
    decoder, sgc = at_least_float32(decoder_logits), at_least_float32(sgc_logits)
    root_mean_square = ((decoder.square().mean() + sgc.square().mean()) / 2 + 1e-8).sqrt()
    mixture = gamma * (decoder / root_mean_square).softmax(dim=1) + (1 - gamma) * (sgc / root_mean_square).softmax(
        dim=1
    )
    # q^(1/T) / sum q^(1/T) through logarithms: a small temperature cannot underflow to 0/0.
    return (mixture.log() / temperature).softmax(dim=1)


def presence_loss(scores: Tensor, present: Tensor) -> Tensor:
    """L_x: sigmoid cross-entropy of scores `[B, F]` to bool `[B, F]`, mean over images and classes."""
    scores = at_least_float32(scores)
    return functional.binary_cross_entropy_with_logits(scores, present.to(scores.dtype))


@torch.no_grad()
def encode_as_deployed(network: SegmentationNetwork, images: Tensor) -> list[Tensor]:
    """`network.encode` in eval mode: batch statistics are read, not written. The mode is put back."""
    network.encoder.eval()
    try:
        return network.encode(images)
    finally:
        network.train(network.training)  # by way of the network, which knows what is frozen


def background_class(name: str | None, data: SegmentationData) -> int | None:
    """The index of the background, or None where every class is an object."""
    classes = data.info.classes
    if name is None:
        return classes.index(BACKGROUND) if BACKGROUND in classes else None
    if name not in classes:
        raise UserError(f"method.background: {data.root} has no class {name!r}; its classes are {', '.join(classes)}")
    return classes.index(name)
