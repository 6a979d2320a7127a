"""What a boundary head is trained with, and what it then does for the classes.

Xu, Xiong, Bhattacharyya, "PIDNet", CVPR 2023, section 3.5 (l1 and l3). The paper draws boundaries with a Canny filter;
here a pixel belongs to one when another class lies close by, which needs no filter and no thresholds. Both losses are
means over images, so a batch that is split over processes has the loss of the whole.
"""

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.labels import IGNORE

RADIUS = 2
"""Pixels on each side, about the width of the paper's dilated edges."""
THRESHOLD = 0.8
"""Probability above which a pixel is taken for a boundary (the paper's t)."""


def boundary_map(labels: Tensor, radius: int = RADIUS) -> Tensor:
    """int `[B, H, W]` -> bool `[B, H, W]`: within `radius` rows and columns lies another class. 255 is no class."""
    ignored = labels == IGNORE
    classes = labels.float()
    highest = _maximum(classes.masked_fill(ignored, -torch.inf), radius)
    lowest = -_maximum((-classes).masked_fill(ignored, -torch.inf), radius)
    return (highest != lowest) & ~ignored


def _maximum(values: Tensor, radius: int) -> Tensor:
    return functional.max_pool2d(values, kernel_size=2 * radius + 1, stride=1, padding=radius)


def boundary_cross_entropy(boundary_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy; boundary and other pixels weigh the same in sum, image by image.

    Args:
        boundary_logits: float `[B, 1, H, W]`.
        labels: int `[B, H, W]`.

    Returns:
        Scalar, 0 for images without boundaries or without labels.
    """
    boundary, labeled = boundary_map(labels).float(), (labels != IGNORE).float()
    count = labeled.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    share = boundary.sum(dim=(1, 2), keepdim=True) / count
    weight = torch.where(boundary > 0, 1 - share, share) * labeled / count
    loss = functional.binary_cross_entropy_with_logits(boundary_logits.squeeze(1), boundary, weight, reduction="sum")
    return loss / len(labels)


def boundary_aware_cross_entropy(logits: Tensor, boundary_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the classes where the boundary head sees a boundary; the head gets no gradient of it.

    Args:
        logits: float `[B, C, H, W]`.
        boundary_logits: float `[B, 1, H, W]`.
        labels: int64 `[B, H, W]`.

    Returns:
        Scalar: the mean over images of the mean over such pixels, 0 for images that have none.
    """
    kept = at_boundaries(boundary_logits, labels)
    seen = kept != IGNORE
    pixel_loss = functional.cross_entropy(logits, kept, ignore_index=IGNORE, reduction="none")
    return ((pixel_loss * seen).sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)).mean()


def at_boundaries(boundary_logits: Tensor, labels: Tensor) -> Tensor:
    """The labels `[B, H, W]` where the boundary head `[B, 1, H, W]` sees a boundary, and 255 elsewhere."""
    seen = boundary_logits.detach().squeeze(1).sigmoid() > THRESHOLD
    return torch.where(seen, labels, IGNORE)
