"""What one patch of a photo looks at: its row of a transformer's self-attention.

As in Hu et al., "Training Vision Transformers for Semi-Supervised Semantic Segmentation" (S4Former), CVPR 2024,
supplement, figure S1: normalized attention weights across all patches for one patch of interest.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from semseg_app.errors import UserError
from semseg_app.models import SegmentationNetwork


class AttentionRow(NamedTuple):
    """What one patch looks at, in one layer."""

    weights: np.ndarray
    """float32 `[h, w]` over the patches, the mean over heads, normalized to sum 1."""
    prefix: float
    """The part of the attention that went to class and register tokens, before that normalization."""
    patch: int
    """Side of a patch in pixels."""
    cell: tuple[int, int]
    """Row and column of the patch that asks."""
    layers: int
    """How many layers could be shown."""

    @property
    def effective(self) -> float:
        """How many patches it looks at: e to the entropy of the weights, 1 for a single one, h w for all alike."""
        known = self.weights[self.weights > 0].astype(np.float64)
        return float(np.exp(-(known * np.log(known)).sum()))

    def over_photo(self, height: int, width: int) -> np.ndarray:
        """The weights as squares over the photo: float32 `[height, width]`."""
        squares: np.ndarray = self.weights.repeat(self.patch, axis=0).repeat(self.patch, axis=1)[:height, :width]
        return squares


class _RowOfEachLayer(TorchFunctionMode):
    """Inside, every call of torch's attention leaves its row of one token; the calls themselves are unchanged.

    So the weights are those of the very tensors that the network attends with, whatever norms, rotations or biases its
    layers put on them first.
    """

    def __init__(self, patch: int, patches: int):
        super().__init__()
        self.patch, self.patches = patch, patches
        self.rows: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.rows.append(self._row(*args, **kwargs))
        return func(*args, **kwargs)

    def _row(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **options: Any
    ) -> Tensor:
        """`[T]`: the mean over heads of the asking token's weights; tokens before the patches come first."""
        token = key.shape[-2] - self.patches + self.patch
        scale = options.get("scale") or query.shape[-1] ** -0.5
        scores = (query[0, :, token : token + 1] @ key[0].transpose(-1, -2)) * scale  # [heads, 1, T]
        if attn_mask is not None:
            scores = scores + attn_mask.expand(*query.shape[:-1], key.shape[-2])[0, :, token : token + 1]
        weights: Tensor = scores.float().softmax(dim=-1).mean(dim=0)[0]
        return weights


@torch.no_grad()
def attention_row(
    network: SegmentationNetwork, images: Tensor, column: int, row: int, layer: int = -1, name: str = "the model"
) -> AttentionRow:
    """What the patch around a pixel of a photo looks at.

    Args:
        network: in eval mode; a vision transformer, or a MiT, of which the layers of the last stage are shown.
        images: one photo, float RGB in [0, 1], `[1, 3, H, W]`.
        column: of the pixel, from 0.
        row: of the pixel, from 0.
        layer: which layer; -1 = the last.
        name: of the model, for messages.

    Raises:
        UserError: the encoder has no self-attention over the whole photo, or the pixel or the layer is not there.
    """
    side = network.attention_patch
    if side is None:
        raise UserError(
            f"{name}: {network.spec.encoder} has no self-attention over all patches; take a model with a vision "
            "transformer or an encoder of mit_b0 to mit_b5"
        )
    height, width = images.shape[2:]
    if not (0 <= column < width and 0 <= row < height):
        raise UserError(f"--at {column},{row}: the photo is {width}x{height}; take 0 to {width - 1},0 to {height - 1}")
    rows, columns = -(-height // side), -(-width // side)
    cell = row // side, column // side
    # A bias of zero changes nothing, and leads a MiT through layers that call torch's attention.
    zero = images.new_zeros(1, 1 + rows * columns, 1 + rows * columns)
    with _RowOfEachLayer(cell[0] * columns + cell[1], rows * columns) as seen:
        network.encode(images, zero)
    if not seen.rows:
        raise UserError(f"{name}: timm's fused attention is switched off; unset TIMM_FUSED_ATTN")
    if not -len(seen.rows) <= layer < len(seen.rows):
        raise UserError(f"--layer {layer}: {name} has layers 0 to {len(seen.rows) - 1}, or -1 for the last")
    weights = seen.rows[layer]
    patches = weights[-rows * columns :]
    total = float(patches.sum())
    normalized = (patches / total).reshape(rows, columns).cpu().numpy()
    return AttentionRow(normalized, max(1 - total, 0.0), side, cell, len(seen.rows))
