"""Af-DCD: masked feature generation, and omni-contrast between its result and the teacher's feature.

Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation for Efficient Semantic Segmentation", NeurIPS
2023. Its third term, logit distillation, is kd.py. The paper and its released code disagree in places; two presets
(presets.py) keep them apart: "parity" is the code with the weights of its scripts, "recommended" is what we would run.
"""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from semseg_app.errors import UserError
from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.distill.masked_generator import FeatureLoss, MaskedGeneration, feature_loss
from semseg_app.training.distill.omni_contrast import Negatives, nearest_divisor, omni_contrast, require_negatives
from semseg_app.training.distill.patch_contrast import Distance


class AfDCDConfig(PartConfig):
    """Defaults are the recommended ones, for strided features of common street and object sets."""

    feature_weight: float = Field(default=33.0, ge=0)
    """Weight of the feature term, for the form of `feature_loss` (lambda_2)."""
    feature_loss: FeatureLoss = "mean"
    """mean: over all elements, one weight for every resolution. sum: over C, H, W, and the mean over images, as
    published."""
    contrast_weight: float = Field(default=5e-3, ge=0)
    """Weight of the contrast (lambda_3). It belongs to L1: the gradient of L2 is about sqrt(C / M) times smaller."""
    temperature: float = Field(default=0.07, gt=0)
    """Of the contrast's softmax."""
    channel_groups: int = Field(default=16, ge=1)
    """Groups into which channels are cut for the contrast (M)."""
    patch_size: int = Field(default=4, ge=1)
    """Side of the patches within which items are contrasted, in pixels of the map (N)."""
    pool_size: int = Field(default=4, ge=0)
    """Max-pooling before patches are cut; 0 = none, right for small images."""
    negatives: Negatives = "other_group"
    """other_group: items of the patch in another channel group, as the code does. all: every other item of it."""
    distance: Distance = "l1"
    """Between two items: L1, L2, or squared L2."""
    drop_ratio: float = Field(default=0.75, ge=0, le=1)
    """Fraction of the student's pixels that are hidden from the generator (zeta)."""
    generator: Literal["plain", "enhanced"] = "plain"
    """plain: two 3x3 convolutions. enhanced: two such blocks, averaged, at twice the cost."""
    clip_norm: float | None = Field(default=15.0, gt=0)
    """L2 norm to which the gradients of alignment and generator are clipped; the student's are left alone."""
    features: MapName = -1
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""

    @model_validator(mode="after")
    def _has_terms_and_negatives(self) -> "AfDCDConfig":
        if not (self.feature_weight or self.contrast_weight):
            raise ValueError("feature_weight and contrast_weight are both 0; leave af_dcd out")
        require_negatives(self.channel_groups, self.patch_size, self.negatives)
        return self


class AfDCD(Distiller):
    """The distiller: feature loss and contrast.

    Args:
        config: see `AfDCDConfig`.
        student_channels: width of the student's feature.
        teacher_channels: width of the teacher's; `channel_groups` divides it.
    """

    def __init__(self, config: AfDCDConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        if teacher_channels % config.channel_groups:
            raise UserError(
                f"af_dcd: channel_groups {config.channel_groups} does not divide the teacher's {teacher_channels} "
                f"channels; use {nearest_divisor(teacher_channels, config.channel_groups)}"
            )
        self.config = config
        self.reads = (config.features,)
        self.generation = MaskedGeneration(student_channels, teacher_channels, config.drop_ratio, config.generator)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`. UserError when the map is smaller than one patch."""
        config = self.config
        student, teacher = pairs[config.features]
        generated = self.generation(student)
        terms = {}
        if config.feature_weight:
            terms["af_dcd_features"] = config.feature_weight * feature_loss(generated, teacher, config.feature_loss)
        if config.contrast_weight:
            self._require_a_patch(*student.shape[2:])
            terms["af_dcd_contrast"] = config.contrast_weight * omni_contrast(
                generated,
                teacher,
                temperature=config.temperature,
                channel_groups=config.channel_groups,
                patch_size=config.patch_size,
                pool_size=config.pool_size,
                negatives=config.negatives,
                distance=config.distance,
            )
        return terms

    def in_teacher_space(self, student: Tensor) -> Tensor:
        """Aligned, hidden in part and generated, as both terms compare it."""
        generated: Tensor = self.generation(student)
        return generated

    def clip_gradients(self) -> None:
        """Between backward and the optimizer's step: bound the gradients of the auxiliary modules alone."""
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.clip_norm)

    def _require_a_patch(self, height: int, width: int) -> None:
        pool, patch = max(self.config.pool_size, 1), self.config.patch_size
        if min(height, width) < pool * patch:
            raise UserError(
                f"af_dcd: the feature map is {height}x{width}, smaller than pool_size x patch_size = {pool} x {patch}; "
                "set pool_size 0, a smaller patch_size, a larger view.crop, or a student of output_stride 8"
            )
