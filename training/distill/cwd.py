"""CWD: every channel's map, as a distribution over the image, follows the teacher's.

Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.losses.pseudo_label import at_least_float32


class CWDConfig(PartConfig):
    """Weights of the CIRKD code base for convolutional pairs; it takes 5 and 0.3 for SegFormer."""

    logit_weight: float = Field(default=3.0, ge=0)
    """Weight of the loss on the logits."""
    feature_weight: float = Field(default=50.0, ge=0)
    """Weight of the same loss on `features`."""
    temperature: float = Field(default=4.0, gt=0)
    """Softens both distributions over the pixels of a channel."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


def cwd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """tau^2 / (B C) times the sum of KL(teacher || student) between softmaxes over the pixels of each channel.

    Args:
        student_logits: `[B, C, h, w]`, logits or features.
        teacher_logits: the same shape, detached.
        temperature: tau.
    """
    student = (at_least_float32(student_logits).flatten(2) / temperature).log_softmax(dim=2)
    teacher = (at_least_float32(teacher_logits.detach()).flatten(2) / temperature).log_softmax(dim=2)
    divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * (temperature**2 / (student.shape[0] * student.shape[1]))


class CWD(Distiller):
    """Both terms; a 1x1 convolution without bias takes the student's feature to the teacher's width if they differ.

    Args:
        config: see `CWDConfig`.
        student_channels: width of the student's feature.
        teacher_channels: width of the teacher's.
    """

    def __init__(self, config: CWDConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        self.config = config
        self.reads = ("logits", config.features)
        aligned = student_channels == teacher_channels or not config.feature_weight
        self.align = nn.Identity() if aligned else nn.Conv2d(student_channels, teacher_channels, 1, bias=False)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        config = self.config
        terms = {}
        if config.logit_weight:
            terms["cwd_logits"] = config.logit_weight * cwd(*pairs["logits"], config.temperature)
        if config.feature_weight:
            student, teacher = pairs[config.features]
            terms["cwd_features"] = config.feature_weight * cwd(self.align(student), teacher, config.temperature)
        return terms
