"""Pixels drawn evenly from every (image, class), without loops and with fixed shapes.

One integer sort per image puts the pixels of each class side by side in random order; the k-th draw of a class is then
the k-th entry of its run. Nothing depends on how many classes there are, so torch.compile sees constants.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class ShuffledClasses(NamedTuple):
    """Per image, its pixels grouped by class, in random order within a class."""

    order: Tensor
    """int64 `[B, HW]`: positions in the flattened map; class 0's run first, ignored pixels last."""
    start: Tensor
    """int64 `[B, C]`: where the run of a class begins."""
    length: Tensor
    """int64 `[B, C]`: how long it is."""


class Anchors(NamedTuple):
    """A fixed number of places for sampled pixels; some stay empty."""

    image: Tensor
    """int64 `[N]`."""
    pixel: Tensor
    """int64 `[N]`, position in the flattened map; any position where the place is empty."""
    label: Tensor
    """int64 `[N]`, class of the pixel; -1 = empty."""


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """int `[B, H, W] -> [B, height, width]` by nearest neighbor, straight to the size of the map that is labeled."""
    if labels.shape[1:] == (height, width):
        return labels
    resized = functional.interpolate(labels.unsqueeze(1).float(), size=(height, width), mode="nearest")
    return resized.squeeze(1).to(labels.dtype)


@torch.no_grad()
def shuffle_classes(labels: Tensor, num_classes: int) -> ShuffledClasses:
    """Group the pixels of int `labels [B, H, W]`; what is not 0 ... num_classes - 1 is ignored."""
    flat = labels.flatten(1).long()
    flat = torch.where((flat >= 0) & (flat < num_classes), flat, num_classes)
    count = flat.new_zeros(len(flat), num_classes + 1).scatter_add_(1, flat, torch.ones_like(flat))
    # Class in the high bits, chance in the low ones: exact for many classes too, where floats would mix neighbors.
    chance = torch.randint(1 << 31, flat.shape, device=flat.device)
    order = (flat * (1 << 31) + chance).argsort(dim=1)
    return ShuffledClasses(order, (count.cumsum(1) - count)[:, :-1], count[:, :-1])


@torch.no_grad()
def sample_anchors(
    labels: Tensor, num_classes: int, budget: int, min_pixels: int = 5, max_views: int = 2500, min_views: int = 1
) -> Anchors:
    """The same number K of random pixels from every (image, class) that has at least `min_pixels`.

    K = min(smallest such count, max_views, floor(budget / number of pairs)), as in Pissas et al., ECCV 2022. A class
    that is in two images gets 2K anchors. With `min_views`, K does not fall below it, and classes with fewer pixels
    give all they have. Should there be more pairs than `budget`, some are dropped at random.

    Args:
        labels: int `[B, H, W]` on the grid of the features; what is not 0 ... num_classes - 1 is ignored.
        num_classes: C.
        budget: most anchors in total; the number of places is min(budget, B * H * W).
        min_pixels: a class with fewer pixels in an image gives none there.
        max_views: largest K.
        min_views: smallest K, before `budget` counts.
    """
    shuffled = shuffle_classes(labels, num_classes)
    batch, pixels = shuffled.order.shape
    kept = shuffled.length >= min_pixels  # [B, C]
    pairs = kept.sum()
    smallest = torch.where(kept, shuffled.length, pixels).amin()
    views = smallest.clamp(min=min_views, max=max_views)
    views = torch.minimum(views, budget // pairs.clamp(min=1)).clamp(min=1)

    chance = torch.rand(kept.numel(), device=kept.device)
    kept_first = (chance + 2 * ~kept.flatten()).argsort()  # pair index = image * C + class
    place = torch.arange(min(budget, batch * pixels), device=labels.device)
    pair = kept_first[(place // views).clamp(max=kept.numel() - 1)]
    view = place % views
    count, start = shuffled.length.flatten()[pair], shuffled.start.flatten()[pair]
    filled = (place < pairs * views) & (view < count)
    image, label = pair // num_classes, pair % num_classes
    pixel = shuffled.order[image, (start + view).clamp(max=pixels - 1)]
    return Anchors(image, pixel, torch.where(filled, label, -1))


@torch.no_grad()
def sample_pixels(labels: Tensor, num_classes: int, budget: int) -> Anchors:
    """Random labeled pixels of the whole batch, whatever their class: a class gets anchors in proportion to its pixels.

    Args:
        labels: int `[B, H, W]` on the grid of the features; what is not 0 ... num_classes - 1 is ignored.
        num_classes: C.
        budget: most anchors in total; the number of places is min(budget, B * H * W), and all labeled pixels are taken
            where they fit.
    """
    flat = labels.flatten().long()
    ignored = (flat < 0) | (flat >= num_classes)
    chance = torch.rand(len(flat), device=flat.device) + 2 * ignored
    chosen = chance.argsort()[: min(budget, len(flat))]  # labeled pixels first, in random order
    pixels = labels[0].numel()
    return Anchors(chosen // pixels, chosen % pixels, torch.where(ignored[chosen], -1, flat[chosen]))
