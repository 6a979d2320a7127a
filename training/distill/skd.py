"""SKD, the pair-wise term: cosines between all pixels of an image follow the teacher's.

Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, with the pooling of the CIRKD code
base (2x2; the original pools half the map into one cell). The paper adds per-pixel KD and an adversarial term, which is
left out here: its users report that it becomes NaN.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.losses.pseudo_label import at_least_float32


class SKDConfig(PartConfig):
    """Weight of the CIRKD code base; the original takes 0.5 with its own pooling."""

    weight: float = Field(default=10.0, ge=0)
    """Weight of the term."""
    pool_size: int = Field(default=2, ge=1)
    """Side of the cells, in pixels of the map, that are compared in pairs; larger is cheaper."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


def pairwise_similarity(student: Tensor, teacher: Tensor, pool_size: int = 2) -> Tensor:
    """Mean squared difference of the two cosine matrices of the max-pooled maps, over images and pairs of cells.

    Args:
        student: `[B, C_s, H, W]`, what the classifier reads.
        teacher: `[B, C_t, H, W]`, detached.
        pool_size: cells of pool_size x pool_size pixels; incomplete ones at the border count.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, others = _cosines(student, pool_size), _cosines(teacher.detach(), pool_size)
        return functional.mse_loss(own, others.to(own.dtype))


def _cosines(feature: Tensor, pool_size: int) -> Tensor:
    """`[B, C, H, W]` -> `[B, cells, cells]`."""
    pooled = functional.max_pool2d(at_least_float32(feature), pool_size, ceil_mode=True)
    unit = functional.normalize(pooled, dim=1).flatten(2)
    return unit.mT @ unit


class SKD(Distiller):
    """The weighted term, `skd`."""

    def __init__(self, config: SKDConfig):
        super().__init__()
        self.config = config
        self.reads = (config.features,)

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`."""
        config = self.config
        return {"skd": config.weight * pairwise_similarity(*pairs[config.features], config.pool_size)}
