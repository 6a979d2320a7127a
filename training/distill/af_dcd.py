"""Af-DCD: masked feature generation, omni-contrast between its result and the teacher's feature, logit distillation.

Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation for Efficient Semantic Segmentation", NeurIPS
2023. Features are the last encoder stage of both networks. The paper and its released code disagree in places; two
presets keep them apart: "parity" is the code with the weights of its scripts, "recommended" is what we would run.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from semseg_app.errors import UserError
from semseg_app.training.distill.kd import kd
from semseg_app.training.distill.masked_generator import FeatureLoss, MaskedGeneration, feature_loss
from semseg_app.training.distill.omni_contrast import Negatives, nearest_divisor, omni_contrast, require_negatives
from semseg_app.training.distill.patch_contrast import Distance


class AfDCDConfig(BaseModel):
    """Defaults are the recommended ones, for strided features of common street and object sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["af_dcd"] = "af_dcd"
    kd_weight: float = Field(default=1.0, ge=0)
    """lambda_1."""
    kd_temperature: float = Field(default=1.0, gt=0)
    feature_weight: float = Field(default=33.0, ge=0)
    """lambda_2, for the form of `feature_loss`."""
    feature_loss: FeatureLoss = "mean"
    contrast_weight: float = Field(default=5e-3, ge=0)
    """lambda_3. It belongs to L1: the gradient of L2 is about sqrt(C / M) times smaller."""
    temperature: float = Field(default=0.07, gt=0)
    channel_groups: int = Field(default=16, ge=1)
    """M."""
    patch_size: int = Field(default=4, ge=1)
    """N."""
    pool_size: int = Field(default=4, ge=0)
    """Max-pooling before patches are cut; 0 = none, right for small images."""
    negatives: Negatives = "other_group"
    distance: Distance = "l1"
    drop_ratio: float = Field(default=0.75, ge=0, le=1)
    """zeta."""
    generator: Literal["plain", "enhanced"] = "plain"
    clip_norm: float | None = Field(default=15.0, gt=0)
    """L2 norm to which the gradients of alignment and generator are clipped; the student's are left alone."""

    @model_validator(mode="after")
    def _has_negatives(self) -> "AfDCDConfig":
        require_negatives(self.channel_groups, self.patch_size, self.negatives)
        return self

    def pair_bytes(self, batch: int, height: int, width: int) -> int:
        """float32 bytes of all pairs for features `[batch, C, height, width]`, which the published code holds at once.

        This implementation holds a chunk of them.
        """
        cell = max(self.pool_size, 1)
        return 4 * batch * (height // cell) * (width // cell) * self.channel_groups**2 * self.patch_size**2


_PARITY: dict[str, dict[str, Any]] = {
    "cityscapes": {"feature_loss": "sum", "feature_weight": 2e-6},
    "camvid": {"feature_loss": "sum", "feature_weight": 8e-6, "contrast_weight": 1e-2, "pool_size": 0},
    "voc": {"feature_loss": "sum", "feature_weight": 1e-6},
    "ade20k": {"feature_loss": "sum", "feature_weight": 1e-6, "contrast_weight": 4e-2, "kd_weight": 0.5},
    "coco_stuff": {"feature_loss": "sum", "feature_weight": 5e-6, "kd_weight": 0.5},
}
_RECOMMENDED: dict[str, dict[str, Any]] = {"camvid": {"contrast_weight": 1e-2, "pool_size": 0}}


def preset(kind: Literal["parity", "recommended"], dataset: str) -> AfDCDConfig:
    """The configuration for a published dataset; UserError names the known ones."""
    if dataset not in _PARITY:
        raise UserError(f"af_dcd: no preset for dataset {dataset!r}; there are: {', '.join(_PARITY)}")
    return AfDCDConfig(**(_PARITY if kind == "parity" else _RECOMMENDED).get(dataset, {}))


class AfDCD(nn.Module):
    """The distiller. Its parameters (alignment, generator) are trained with the student and never saved with it.

    Args:
        config: see `AfDCDConfig`.
        student_channels: width of the student's last encoder stage.
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
        self.generation = MaskedGeneration(student_channels, teacher_channels, config.drop_ratio, config.generator)

    def forward(
        self, student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms; their sum, with the task loss, is what is minimised.

        Args:
            student: `[B, student_channels, H, W]`.
            teacher: `[B, teacher_channels, H, W]`, no gradient flows there.
            student_logits: `[B, K, h, w]`.
            teacher_logits: the same shape.
        """
        config = self.config
        terms = {}
        if config.kd_weight:
            terms["kd"] = config.kd_weight * kd(student_logits, teacher_logits, config.kd_temperature)
        if config.feature_weight or config.contrast_weight:
            generated = self.generation(student)
            if config.feature_weight:
                terms["feature"] = config.feature_weight * feature_loss(generated, teacher, config.feature_loss)
            if config.contrast_weight:
                terms["contrast"] = config.contrast_weight * omni_contrast(
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

    def clip_gradients(self) -> None:
        """Between backward and the optimiser's step: bound the gradients of the auxiliary modules alone."""
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.clip_norm)
