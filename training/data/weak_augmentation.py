"""The weak view: resize, crop, flip. All geometry is here, shared by image, label and every strong view.

Strong views only change colors or mix images afterwards, as in the papers of all methods under methods/, so no label is
ever warped.
"""

from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import InterpolationMode

from semseg_app.labels import IGNORE
from semseg_app.training.section import Section

PAD_COLOR = (124, 116, 104)  # the ImageNet mean: close to zero after normalization


class WeakView(Section):
    """Random resize, crop with padding at the bottom and right, horizontal flip."""

    crop: tuple[int, int] = (320, 320)
    """Height and width of a training crop, in pixels: as much context as memory allows."""
    scale: tuple[float, float] = (0.5, 2.0)
    """The image is resized by a factor drawn uniformly from this range before the crop."""
    short_side: int | None = Field(default=None, ge=16)
    """The factor counts from the size at which the photo's shorter side has so many pixels (S4Former: 512); null = from
    the photo's own size."""
    max_class_share: float | None = Field(default=None, gt=0, le=1)
    """Crops with labels are drawn again, up to ten times, until no class has a larger share of their labeled pixels
    (0.75 in mmsegmentation and the contrast papers). Unlabeled photos are cropped without a look at any label."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a mirror image; 0 where left and right differ in meaning, as in traffic signs."""
    photometric: bool = False
    """Change the colors of weak views too, as mmsegmentation does (S4Former); strong views start from the photo."""

    @model_validator(mode="after")
    def _positive(self) -> "WeakView":
        if min(self.crop) < 16:
            raise ValueError(f"crop {self.crop} is too small; use at least 16 pixels per side")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {self.scale} is not a range; write it as [smallest, largest], both above 0")
        return self


class Window(NamedTuple):
    """A crop, before it is cut out."""

    source: tuple[int, int, int, int]
    """top, left, height, width in the photo."""
    size: tuple[int, int]
    """Height and width that this has in the crop, at its top left."""


class View(NamedTuple):
    """A crop: `image` uint8 `[3, h, w]`, `label` uint8 `[h, w]` or None, `pad` bool `[h, w]`, True off the photo."""

    image: Tensor
    label: Tensor | None
    pad: Tensor
    window: Window
    """Where the crop comes from, before it was flipped."""
    flipped: bool
    """Whether the whole crop, padding included, is a mirror image."""


MOST_DRAWS = 10
"""Draws of a crop for `max_class_share`; the last is taken, whatever it shows."""


def weak_view(image: Tensor, label: Tensor | None, config: WeakView, random: Generator) -> View:
    """One random crop.

    The crop is cut out of the source before resizing: the pixels that would be thrown away are never computed.

    Args:
        image: uint8 `[3, H, W]`.
        label: uint8 `[H, W]`, 255 = ignore, or None.
        config: sizes and ranges.
        random: the only source of randomness.
    """
    height, width = image.shape[1:]
    low, high = config.scale
    base = config.short_side / min(height, width) if config.short_side else 1.0
    draw = torch.rand(4, generator=random).tolist()
    factor = base * (low + (high - low) * draw[0])
    window = _window(height, width, config.crop, factor, draw[1], draw[2])
    if label is not None and config.max_class_share is not None:
        for _ in range(MOST_DRAWS):
            if largest_class_share(_cut(label, window)) < config.max_class_share:
                break
            window = _window(height, width, config.crop, factor, *torch.rand(2, generator=random).tolist())
    size = list(window.size)
    image = functional.resized_crop(
        tv_tensors.Image(image), *window.source, size, InterpolationMode.BILINEAR, antialias=True
    )
    padding = [0, 0, config.crop[1] - size[1], config.crop[0] - size[0]]
    pad = torch.zeros(config.crop, dtype=torch.bool)
    if any(padding):
        image = functional.pad(image, padding, fill=list(PAD_COLOR))
        pad[size[0] :] = True
        pad[:, size[1] :] = True
    if label is not None:
        mask = functional.resized_crop(
            tv_tensors.Mask(label.unsqueeze(0)), *window.source, size, InterpolationMode.NEAREST
        )
        label = functional.pad(mask, padding, fill=IGNORE).squeeze(0).as_subclass(Tensor)
    image = image.as_subclass(Tensor)
    flipped = draw[3] < config.flip
    if flipped:
        image, pad = image.flip(-1), pad.flip(-1)
        label = label.flip(-1) if label is not None else None
    return View(image, label, pad, window, flipped)


def _window(height: int, width: int, crop: tuple[int, int], factor: float, down: float, right: float) -> Window:
    """The crop of a photo resized by `factor`, `down` and `right` (from 0 to 1) of the way to its end."""
    # Visible part of the crop, in pixels of the resized image, and the same window in the source.
    visible_height = min(crop[0], max(round(height * factor), 1))
    visible_width = min(crop[1], max(round(width * factor), 1))
    source_height = min(height, max(round(visible_height / factor), 1))
    source_width = min(width, max(round(visible_width / factor), 1))
    top = int(down * (height - source_height + 1))
    left = int(right * (width - source_width + 1))
    return Window((top, left, source_height, source_width), (visible_height, visible_width))


def _cut(label: Tensor, window: Window) -> Tensor:
    top, left, height, width = window.source
    return label[top : top + height, left : left + width]


def largest_class_share(label: Tensor) -> float:
    """Of the labeled pixels, how many belong to the most common class; 1 where there is one class or no labeled pixel.

    As mmsegmentation's `cat_max_ratio`, for which a crop of a single class is never varied enough.
    """
    counts = torch.bincount(label.flatten().long(), minlength=IGNORE + 1)[:IGNORE]
    if (counts > 0).sum() < 2:
        return 1.0
    return float(counts.max() / counts.sum())
