"""FitNet: the student's feature, through a linear map, equals the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from semseg_app.training.distill.masked_generator import feature_loss


class FitNetConfig(BaseModel):
    """Weight of the CIRKD code base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fitnet"] = "fitnet"
    weight: float = Field(default=10.0, ge=0)


class FitNet(nn.Module):
    """A 1x1 convolution without bias to the teacher's width, and the mean squared error.

    Args:
        config: see `FitNetConfig`.
        student_channels: width of the student's feature.
        teacher_channels: width of the teacher's.
    """

    def __init__(self, config: FitNetConfig, student_channels: int, teacher_channels: int):
        super().__init__()
        self.config = config
        self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """The weighted term, from features `[B, C, H, W]`."""
        return {"fitnet": self.config.weight * feature_loss(self.align(student), teacher, "mean")}
