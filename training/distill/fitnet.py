"""FitNet: the student's feature, through a linear map, equals the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
"""

from pydantic import Field
from torch import Tensor, nn

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.distill.masked_generator import feature_loss


class FitNetConfig(PartConfig):
    """Weight of the CIRKD code base."""

    weight: float = Field(default=10.0, ge=0)
    """Weight of the term."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


class FitNet(Distiller):
    """The weighted term, `fitnet`, after a 1x1 convolution without bias to the teacher's width."""

    def __init__(self, config: FitNetConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        self.config = config
        self.reads = (config.features,)
        self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        student, teacher = pairs[self.config.features]
        return {"fitnet": self.config.weight * feature_loss(self.align(student), teacher, "mean")}

    def in_teacher_space(self, student: Tensor) -> Tensor:
        """Aligned."""
        aligned: Tensor = self.align(student)
        return aligned
