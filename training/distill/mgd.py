"""MGD: from a masked feature, a small generator has to make the teacher's; plus CWD on the logits.

Yang et al., "Masked Generative Distillation", ECCV 2022. The released segmentation recipe adds CWD on the logits; so
does this one. Features are the last encoder stage.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from semseg_app.training.distill.cwd import cwd
from semseg_app.training.distill.masked_generator import FeatureLoss, MaskedGeneration, feature_loss


class MGDConfig(BaseModel):
    """The published alpha is 2e-5 on the sum form, which at 512x512, stride 8 and 2048 channels is 168 on the mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["mgd"] = "mgd"
    weight: float = Field(default=168.0, ge=0)
    feature_loss: FeatureLoss = "mean"
    drop_ratio: float = Field(default=0.75, ge=0, le=1)
    logit_weight: float = Field(default=3.0, ge=0)
    """Of CWD on the logits; 0 = the paper's loss alone."""
    logit_temperature: float = Field(default=4.0, gt=0)


class MGD(nn.Module):
    """Alignment and generator with both terms.

    Args:
        config: see `MGDConfig`.
        student_channels: width of the student's last encoder stage.
        teacher_channels: width of the teacher's.
    """

    def __init__(self, config: MGDConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        self.config = config
        self.generation = MaskedGeneration(student_channels, teacher_channels, config.drop_ratio)

    def forward(
        self, student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms, from features `[B, C, H, W]` and logits `[B, K, h, w]`."""
        config = self.config
        terms = {"feature": config.weight * feature_loss(self.generation(student), teacher, config.feature_loss)}
        if config.logit_weight:
            terms["cwd_logits"] = config.logit_weight * cwd(student_logits, teacher_logits, config.logit_temperature)
        return terms
