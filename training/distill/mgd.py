"""MGD: from a masked feature, a small generator has to make the teacher's; plus CWD on the logits.

Yang et al., "Masked Generative Distillation", ECCV 2022. The released segmentation recipe adds CWD on the logits; so
does this one. KD is no part of it.
"""

from pydantic import Field
from torch import Tensor

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.distill.cwd import cwd
from semseg_app.training.distill.masked_generator import FeatureLoss, MaskedGeneration, feature_loss


class MGDConfig(PartConfig):
    """The published alpha is 2e-5 on the sum form, which at 512x512, stride 8 and 2048 channels is 168 on the mean."""

    weight: float = Field(default=168.0, ge=0)
    """Weight of the feature term, for the form of `feature_loss` (alpha)."""
    feature_loss: FeatureLoss = "mean"
    """mean: over all elements, one weight for every resolution. sum: over C, H, W, and the mean over images, as
    published."""
    drop_ratio: float = Field(default=0.75, ge=0, le=1)
    """Fraction of the student's pixels that are hidden from the generator."""
    logit_weight: float = Field(default=3.0, ge=0)
    """Weight of CWD on the logits; 0 = the paper's loss alone."""
    logit_temperature: float = Field(default=4.0, gt=0)
    """Of CWD on the logits."""
    features: MapName = -1
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


class MGD(Distiller):
    """Alignment and generator with both terms.

    Args:
        config: see `MGDConfig`.
        student_channels: width of the student's feature.
        teacher_channels: width of the teacher's.
    """

    def __init__(self, config: MGDConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        self.config = config
        self.reads = ("logits", config.features)
        self.generation = MaskedGeneration(student_channels, teacher_channels, config.drop_ratio)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        config = self.config
        student, teacher = pairs[config.features]
        generated = self.generation(student)
        terms = {"mgd_features": config.weight * feature_loss(generated, teacher, config.feature_loss)}
        if config.logit_weight:
            terms["mgd_logits"] = config.logit_weight * cwd(*pairs["logits"], config.logit_temperature)
        return terms

    def in_teacher_space(self, student: Tensor) -> Tensor:
        """Aligned, hidden in part and generated, as the feature term compares it."""
        aligned: Tensor = self.generation(student)
        return aligned
