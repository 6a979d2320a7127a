"""Unsupervised losses that several methods share: cross-entropy to hard or soft pseudo labels.

Three masks stay apart all the way: `ignore` is the value 255 in a label, `pad` marks pixels that the crop added, `cut`
marks what CutOut removed. A pixel is valid for an unsupervised loss when it is neither pad nor cut. An ignored or
unconfident pixel is still valid: it counts in the denominator, so the loss weighs as much as there is confidence.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork

Reduction = Literal["valid", "all"]
"""What a sum over pixels is divided by: the valid pixels (PseudoSeg, UniMatch) or all B*H*W (AugSeg, S4Former)."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """bool `[B, H, W]` -> bool `[B, height, width]`, nearest pixel center (no mask value is ever blended)."""
    if mask.shape[1:] == (height, width):
        return mask
    resized = functional.interpolate(mask.unsqueeze(1).float(), size=(height, width), mode="nearest-exact")
    return resized.squeeze(1) > 0.5


def mask_on_grid(mask: Tensor, network: SegmentationNetwork, height: int, width: int) -> Tensor:
    """bool `[B, H, W]` of a crop -> bool `[B, height, width]` on a grid of the network's maps.

    The maps cover the image as the network pads it, right and bottom to its stride: that border is True. A network that
    aligns corners pads nothing, and the corner cells of its maps lie on the corner pixels.
    """
    if network.spec.align_corners:
        rows, columns = (
            torch.linspace(0, side - 1, cells, device=mask.device).round().long()
            for side, cells in ((mask.shape[1], height), (mask.shape[2], width))
        )
        return mask[:, rows[:, None], columns]
    padding = (0, -mask.shape[2] % network.stride, 0, -mask.shape[1] % network.stride)
    return resize_mask(functional.pad(mask, padding, value=True), height, width)


def masked_mean(pixel_loss: Tensor, counted: Tensor, valid: Tensor, reduction: Reduction = "valid") -> Tensor:
    """Sum of `pixel_loss [B, H, W]` over `counted` and `valid`, divided as `reduction` says.

    What is not counted has no gradient. Exactly 0 where nothing counts, never 0/0.
    """
    total = torch.where(counted & valid, pixel_loss, pixel_loss.new_zeros(())).sum()
    return total / (valid.sum().clamp(min=1) if reduction == "valid" else max(valid.numel(), 1))


def sure_pixels(
    labels: Tensor, confidence: Tensor, valid: Tensor, threshold: float, surest_share: float | None = None
) -> Tensor:
    """bool `[B, H, W]`: the pixels whose pseudo label is learned from. 255 in `labels` never is.

    Args:
        labels: int `[B, H, W]`.
        confidence: float `[B, H, W]`, the largest probability.
        valid: bool `[B, H, W]`; other pixels never count.
        threshold: least confidence.
        surest_share: instead of the threshold, this share of the valid pixels of each class, the surest, rounded up:
            every class then has a threshold of its own (as in Zou et al., "Unsupervised Domain Adaptation for Semantic
            Segmentation via Class-Balanced Self-Training", ECCV 2018, section 4.2; here over the batch).
    """
    known = valid & (labels != IGNORE)
    if surest_share is None:
        return known & (confidence >= threshold)
    # One sort of class + doubt brings every class's pixels together, the surest first; what is not known comes last.
    doubt = (1 - confidence.double()).clamp(0, 0.999_999)
    key = torch.where(known, labels.double() + doubt, IGNORE + 1.0).flatten()
    order = key.argsort(stable=True)
    classes = torch.where(known, labels.long(), IGNORE).flatten()
    counts = torch.zeros(IGNORE + 1, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, classes, torch.ones_like(classes))
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)) - starts[classes]
    # Rounding up must not be pushed over by a float error: 0.2 * 5 is 1.
    quota = (counts.double() * surest_share - 1e-9).ceil()[classes]
    return (rank < quota).view(labels.shape) & known


def pseudo_label_loss(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    valid: Tensor,
    threshold: float,
    reduction: Reduction = "valid",
    class_weights: Tensor | None = None,
    surest_share: float | None = None,
) -> Tensor:
    """Cross-entropy to hard pseudo labels (FixMatch for pixels).

    Args:
        logits: `[B, C, H, W]`, the student on its strong view.
        labels: int `[B, H, W]`; 255 never counts.
        confidence: `[B, H, W]`, the teacher's largest probability.
        valid: bool `[B, H, W]`, neither pad nor cut.
        threshold: confidence from which pixels count; 0 counts every pixel.
        reduction: see `Reduction`.
        class_weights: `[C]`, what a pixel of each class counts; None = 1. Scaled to a mean of 1 over the pixels that
            count: weights move the loss between classes and never raise it. Without that, a rare class which is
            predicted more often weighs more in sum, is learned more, and is predicted more often still.
        surest_share: see `sure_pixels`.
    """
    pixel_loss = functional.cross_entropy(
        at_least_float32(logits), labels.long(), ignore_index=IGNORE, reduction="none"
    )
    counted = sure_pixels(labels, confidence, valid, threshold, surest_share)
    if class_weights is not None:
        weights = class_weights[torch.where(counted, labels, 0).long()] * counted
        total = weights.sum()  # 0 where nothing counts, or only classes without a labeled pixel: then the loss is 0
        pixel_loss = pixel_loss * weights * (counted.sum() / total.where(total > 0, 1.0))
    return masked_mean(pixel_loss, counted, valid, reduction)


def soft_label_loss(logits: Tensor, target: Tensor, valid: Tensor, reduction: Reduction = "valid") -> Tensor:
    """Cross-entropy `-sum_c target_c log softmax(logits)_c` to a fixed distribution `target [B, C, H, W]`."""
    log_probability = at_least_float32(logits).log_softmax(dim=1)
    pixel_loss = -(target.detach() * log_probability).sum(dim=1)
    return masked_mean(pixel_loss, torch.ones_like(valid), valid, reduction)
