"""KD: the student's class distribution at every pixel follows the teacher's.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, per pixel as in Liu et al., "Structured Knowledge
Distillation for Semantic Segmentation", CVPR 2019. It needs no labels: ignored pixels and unlabeled images count too.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from semseg_app.training.contracts import Distiller, Pairs, PartConfig
from semseg_app.training.losses.pseudo_label import at_least_float32


class KDConfig(PartConfig):
    """Defaults of the CIRKD code base. Repositories that average the divergence over classes too use weight 10."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the term."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions; the loss is multiplied with its square."""


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over pixels of KL(softmax(teacher / T) || softmax(student / T)).

    The factor keeps the gradient's order whatever the temperature. The teacher is detached.

    Args:
        student_logits: `[B, K, h, w]`.
        teacher_logits: `[B, K, h, w]`.
        temperature: T.
    """
    student = (at_least_float32(student_logits) / temperature).log_softmax(dim=1)
    teacher = (at_least_float32(teacher_logits.detach()) / temperature).log_softmax(dim=1)
    divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * (temperature**2 / student[:, 0].numel())


class KD(Distiller):
    """The weighted term, `kd`."""

    reads = ("logits",)

    def __init__(self, config: KDConfig):
        super().__init__()
        self.config = config

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        return {"kd": self.config.weight * kd(*pairs["logits"], self.config.temperature)}
