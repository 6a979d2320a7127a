"""Attention transfer: where a feature has energy follows the teacher's.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, with squared activations.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.losses.pseudo_label import at_least_float32


class AttentionTransferConfig(PartConfig):
    """Weight of the CIRKD code base."""

    weight: float = Field(default=10000.0, ge=0)
    """Weight of the term."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the attention maps, each of unit length per image.

    Args:
        student: `[B, C_s, H, W]`.
        teacher: `[B, C_t, H, W]`, detached.
    """
    return functional.mse_loss(_attention(student), _attention(teacher.detach()))


def _attention(feature: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, HW]`."""
    return functional.normalize(at_least_float32(feature).square().mean(dim=1).flatten(1), dim=1)


class AttentionTransfer(Distiller):
    """The weighted term, `attention_transfer`."""

    def __init__(self, config: AttentionTransferConfig):
        super().__init__()
        self.config = config
        self.reads = (config.features,)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        return {"attention_transfer": self.config.weight * attention_transfer(*pairs[self.config.features])}
