"""Omni-contrast, the third term of Af-DCD: every pixel of every channel group against its patch of the teacher.

Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation for Efficient Semantic Segmentation", NeurIPS
2023, in the form of the released code.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.training.distill.patch_contrast import Distance, patch_contrast
from semseg_app.training.losses.precomputed_gradient import wants_gradient
from semseg_app.training.losses.pseudo_label import at_least_float32

Negatives = Literal["other_group", "all"]
"""other_group: items of the patch in another channel group, as the code does. all: every other item of the patch."""


def omni_contrast(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.07,
    channel_groups: int = 16,
    patch_size: int = 4,
    pool_size: int = 4,
    negatives: Negatives = "other_group",
    distance: Distance = "l1",
) -> Tensor:
    """Contrast of every (pixel, channel group) of the student with the teacher's of the same patch, as a scalar.

    Sum over the channel groups, mean over images and pooled pixels. channel_groups=1 is the paper's spatial contrasting
    (with negatives="all"), patch_size=1 its channel contrasting. Nothing is normalized to unit length. Computed in
    float32 at least; the teacher is detached.

    Args:
        student: `[B, C, H, W]`.
        teacher: `[B, C, H, W]`.
        temperature: tau.
        channel_groups: M contiguous groups of C / M channels.
        patch_size: N; items are contrasted within N x N patches.
        pool_size: max-pooling before that; 0 or 1 = none. H and W that pool_size * patch_size does not divide are
            cropped right and bottom, with a warning.
        negatives: see `Negatives`.
        distance: "l1" as released, "l2" or "sq_l2".

    Raises:
        ValueError: shapes differ, groups do not divide the channels, nothing is left to contrast with.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} features differ; align them"
        )
    if student.shape[1] % channel_groups:
        raise ValueError(
            f"channel_groups {channel_groups} does not divide {student.shape[1]} channels; "
            f"use {nearest_divisor(student.shape[1], channel_groups)}"
        )
    if distance not in ("l1", "l2", "sq_l2"):
        raise ValueError(f'distance {distance!r} is none of "l1", "l2", "sq_l2"')
    require_negatives(channel_groups, patch_size, negatives)
    pool = max(pool_size, 1)
    student, teacher = (_crop(feature, pool * patch_size) for feature in (student, teacher.detach()))
    if pool > 1:
        student, teacher = functional.max_pool2d(student, pool), functional.max_pool2d(teacher, pool)
    pixels = student.shape[0] * student.shape[2] * student.shape[3]
    own, others = (
        _patch_items(at_least_float32(feature), channel_groups, patch_size) for feature in (student, teacher)
    )
    total, _ = patch_contrast(
        own,
        others.to(own.dtype),
        temperature,
        channel_groups,
        negatives == "all",
        distance,
        wants_gradient(own),
    )
    return total / pixels


def _patch_items(feature: Tensor, groups: int, patch: int) -> Tensor:
    """`[B, M*c, h, w] -> [P, N*N*M, c]`: patches in reading order, items (pixel, group) with the group innermost."""
    batch, channels, height, width = feature.shape
    cells = feature.reshape(batch, groups, channels // groups, height // patch, patch, width // patch, patch)
    items = cells.permute(0, 3, 5, 4, 6, 1, 2)
    return items.reshape(-1, patch * patch * groups, channels // groups)


def require_negatives(groups: int, patch: int, negatives: str) -> None:
    if negatives not in ("other_group", "all"):
        raise ValueError(f'negatives {negatives!r} is neither "other_group" nor "all"')
    if groups == 1 and negatives == "other_group":
        raise ValueError('channel_groups 1 leaves no item of another group as a negative; use negatives="all"')
    if groups == 1 and patch == 1:
        raise ValueError(
            "channel_groups 1 with patch_size 1 leaves one item a patch and no negative; raise one of them"
        )


def _crop(feature: Tensor, multiple: int) -> Tensor:
    """Cut right and bottom to multiples, and say once which crop would waste nothing."""
    height, width = feature.shape[2:]
    kept = (height - height % multiple, width - width % multiple)
    if kept == (height, width):
        return feature
    if 0 in kept:
        raise ValueError(f"feature map {height}x{width} is smaller than pool_size * patch_size = {multiple}")
    if not torch.compiler.is_compiling():
        near = tuple(max(round(side / multiple), 1) * multiple for side in (height, width))
        warnings.warn(
            f"omni-contrast crops the {height}x{width} feature map to {kept[0]}x{kept[1]}, multiples of pool_size * "
            f"patch_size = {multiple}; the nearest good map is {near[0]}x{near[1]}, at output stride 8 an image crop "
            f"of {8 * near[0]}x{8 * near[1]}",
            stacklevel=3,
        )
    return feature[:, :, : kept[0], : kept[1]]


def nearest_divisor(number: int, wanted: int) -> int:
    return min(
        (divisor for divisor in range(1, number + 1) if number % divisor == 0), key=lambda one: abs(one - wanted)
    )
