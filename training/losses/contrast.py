"""Multi-scale and cross-scale contrast: an add-on for any method that has labels and an encoder with several scales.

Pissas et al., "Multi-scale and Cross-scale Contrastive Learning for Semantic Segmentation", ECCV 2022. Each scale has a
projection head into one common space; pixels are drawn evenly from every (image, class); anchors are contrasted within
their scale and with the deep scales. Heads and losses are for training only.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.models.registry import ALL_SCALES, ARCHITECTURES
from semseg_app.training.losses.class_sampling import Anchors, resize_labels, sample_anchors, sample_pixels
from semseg_app.training.losses.info_nce import class_contrast
from semseg_app.training.losses.pseudo_label import at_least_float32
from semseg_app.training.section import Section


class ContrastConfig(Section):
    """Defaults of the released configurations, but with the budget per image instead of per GPU."""

    weight: float = Field(default=0.1, ge=0)
    """Weight of the sum over scales."""
    scale_weights: tuple[float, ...] = (1.0, 0.7, 0.4, 0.1)
    """From the finest scale to the deepest; three scales use the first three."""
    cross_weight: float = Field(default=0.1, ge=0)
    """Weight of the sum over pairs of scales."""
    cross_pairs: tuple[tuple[int, int], ...] = ((0, -1), (0, -2))
    """Anchors' scale, candidates' scale."""
    detach_candidates: bool = False
    """Stop the cross-scale gradient at the deeper scale."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax within a scale; lower looks harder at the nearest pixels."""
    cross_temperature: float = Field(default=0.1, gt=0)
    """The same between scales."""
    dimension: int = Field(default=256, ge=1)
    """Width of the common space."""
    sampling: Literal["balanced", "proportional"] = "balanced"
    """balanced: as many pixels of every class of every image. proportional: pixels are drawn whatever their class, so
    that common classes rule (K ~ p_data of the supplement's table 2); with a budget of all pixels no sampling at
    all."""
    anchors_per_image: int = Field(default=5000, ge=1)
    """Most pixels that are contrasted, per image and scale; memory grows with it, time with its square."""
    min_pixels: int = Field(default=5, ge=1)
    """A class with fewer pixels in an image is left out there, at that scale."""
    max_views: int = Field(default=2500, ge=1)
    """Most anchors of a class in an image."""
    min_views: int = Field(default=1, ge=1)
    """Floor of the number of anchors a class, which else follows the smallest class; 1 = none, as published."""
    attach: Literal["encoder", "fpn"] = "encoder"
    """To stages of the encoder, or to the feature pyramid of an upernet (with Swin better on ADE20K, not on
    Cityscapes)."""
    stages: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Which of these maps (indices, -1 = the deepest), finest first; null = the last four, of the encoders of deeplabv3
    and pspnet -4, -2 and -1, of ocr over a dilated encoder -4 and -1."""


class ProjectionHead(nn.Sequential):
    """1x1 convolution, ReLU, batch norm, 1x1 convolution into the common space (in this order in the released code)."""

    def __init__(self, channels: int, dimension: int):
        super().__init__(
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(channels, momentum=3e-4),
            nn.Conv2d(channels, dimension, kernel_size=1),
        )


class ContrastAddOn(nn.Module):
    """Projection heads, and both losses between pixels that are sampled anew in every step.

    Args:
        config: see `ContrastConfig`.
        network: the network whose maps are contrasted; the module keeps no reference to it.
    """

    def __init__(self, config: ContrastConfig, network: SegmentationNetwork):
        super().__init__()
        self.config = config
        widths = network.stage_channels
        if config.attach == "fpn":
            levels = ARCHITECTURES[network.spec.architecture].pyramid_levels
            if not levels:
                raise UserError(f"method.contrast.attach: {network.spec.architecture} has no fpn; use encoder")
            widths = [network.decoder_channels] * levels
        self.stages = config.stages or own_stages(config, network)
        for stage in self.stages:
            if not -len(widths) <= stage < len(widths):
                raise UserError(
                    f"method.contrast.stages: {network.spec.encoder} has stages {-len(widths)} to {len(widths) - 1}, "
                    f"not {stage}; name others"
                )
        scales = range(len(self.stages))
        if len(config.scale_weights) < len(scales):
            raise UserError(
                f"method.contrast.scale_weights: {len(config.scale_weights)} weights for {len(scales)} scales; "
                "write one for each"
            )
        self.num_classes, self.stride = network.spec.num_classes, network.stride
        self.heads = nn.ModuleList(ProjectionHead(widths[stage], config.dimension) for stage in self.stages)
        fitting = [pair for pair in config.cross_pairs if all(-len(scales) <= scale < len(scales) for scale in pair)]
        pairs = [(scales[fine], scales[deep]) for fine, deep in fitting]
        self.cross_pairs = [(fine, deep) for fine, deep in pairs if fine != deep]

    def forward(self, features: Features, labels: Tensor) -> dict[str, Tensor]:
        """Weighted scalar terms, `scale_contrast` and `cross_scale_contrast`; zero when no class qualifies.

        Args:
            features: the network's maps, which cover the image as the network pads it.
            labels: int `[B, H, W]` of the image before padding; values that are no class are ignored.
        """
        config = self.config
        border = (0, -labels.shape[2] % self.stride, 0, -labels.shape[1] % self.stride)
        labels = functional.pad(labels, border, value=IGNORE)
        maps = features.pyramid if config.attach == "fpn" else features.stages
        views: list[Tensor] = []  # of each scale `[N, D, 1]`: one view of each of N sampled pixels
        classes: list[Tensor] = []
        for head, feature in zip(self.heads, [maps[stage] for stage in self.stages], strict=True):
            anchors = self._sampled(resize_labels(labels, *feature.shape[2:]))
            views.append(_gather(head(feature), anchors).unsqueeze(2))
            classes.append(anchors.label)
        # Also at weight 0: every head must take part in every step, or several processes wait for its gradient.
        within = [
            weight * intra_scale_contrast(vectors, labels, config.temperature)
            for weight, vectors, labels in zip(config.scale_weights, views, classes, strict=False)
        ]
        terms = {"scale_contrast": config.weight * torch.stack(within).sum()}
        if config.cross_weight and self.cross_pairs:
            across = [
                cross_scale_contrast(
                    views[fine],
                    classes[fine],
                    views[deep].detach() if config.detach_candidates else views[deep],
                    classes[deep],
                    config.cross_temperature,
                )
                for fine, deep in self.cross_pairs
            ]
            terms["cross_scale_contrast"] = config.cross_weight * torch.stack(across).sum()
        return terms

    def _sampled(self, labels: Tensor) -> Anchors:
        config = self.config
        budget = config.anchors_per_image * len(labels)
        if config.sampling == "proportional":
            return sample_pixels(labels, self.num_classes, budget)
        limits = config.min_pixels, config.max_views, config.min_views
        return sample_anchors(labels, self.num_classes, budget, *limits)


def intra_scale_contrast(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """InfoNCE among anchors of one scale, as a scalar: the mean over all T * K anchors.

    Args:
        features: `[T, C, K]` before normalization: K views of each of T (image, class) pairs.
        labels: int `[T]`, the class of each pair; -1 = an empty pair, which is left out.
        temperature: tau.
    """
    anchors, classes = _flatten(features, labels)
    return class_contrast(anchors, classes, anchors, classes, temperature)


def cross_scale_contrast(
    features_a: Tensor, labels_a: Tensor, features_b: Tensor, labels_b: Tensor, temperature: float
) -> Tensor:
    """InfoNCE of the anchors of scale a with candidates of scale b. Gradients reach both; it is not symmetric.

    An anchor whose class is missing in b contributes 0 and stays in the mean.

    Args:
        features_a: `[T_a, C, K_a]` before normalization.
        labels_a: int `[T_a]`.
        features_b: `[T_b, C, K_b]`.
        labels_b: int `[T_b]`.
        temperature: tau.
    """
    return class_contrast(*_flatten(features_a, labels_a), *_flatten(features_b, labels_b), temperature)


def _flatten(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`[T, C, K], [T]` -> vectors `[T * K, C]`, at least float32, and their labels `[T * K]`."""
    vectors = at_least_float32(features).transpose(1, 2).flatten(0, 1)
    return vectors, labels.long().repeat_interleave(features.shape[2])


def _gather(feature: Tensor, anchors: Anchors) -> Tensor:
    """The vectors `[N, D]` of the sampled pixels of `[B, D, H, W]`, whatever its memory format."""
    width = feature.shape[3]
    return at_least_float32(feature[anchors.image, :, anchors.pixel // width, anchors.pixel % width])


def own_stages(config: ContrastConfig, network: SegmentationNetwork) -> Sequence[int]:
    """Where the paper attaches to this architecture."""
    if config.attach == "fpn":
        return ALL_SCALES
    return ARCHITECTURES[network.spec.architecture].contrast_stages(network.spec.encoder)
