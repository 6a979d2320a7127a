"""The weak view: resize, crop, flip. All geometry is here, shared by image, label and every strong view.

Strong views only change colors or mix images afterwards, as in the papers of all methods under methods/, so no label is
ever warped.
"""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import InterpolationMode

from semseg_app.labels import IGNORE

PAD_COLOR = (124, 116, 104)  # the ImageNet mean: close to zero after normalization


class WeakView(BaseModel):
    """Random resize, crop with padding at the bottom and right, horizontal flip."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    crop: tuple[int, int] = (320, 320)
    """Height and width of a training crop, in pixels: as much context as memory allows."""
    scale: tuple[float, float] = (0.5, 2.0)
    """The image is resized by a factor drawn uniformly from this range before the crop."""
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


class View(NamedTuple):
    """A crop: `image` uint8 `[3, h, w]`, `label` uint8 `[h, w]` or None, `pad` bool `[h, w]`, True off the photo."""

    image: Tensor
    label: Tensor | None
    pad: Tensor


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
    crop_height, crop_width = config.crop
    low, high = config.scale
    draw = torch.rand(4, generator=random).tolist()
    factor = low + (high - low) * draw[0]
    # Visible part of the crop, in pixels of the resized image, and the same window in the source.
    visible_height = min(crop_height, max(round(height * factor), 1))
    visible_width = min(crop_width, max(round(width * factor), 1))
    source_height = min(height, max(round(visible_height / factor), 1))
    source_width = min(width, max(round(visible_width / factor), 1))
    top = int(draw[1] * (height - source_height + 1))
    left = int(draw[2] * (width - source_width + 1))
    window = (top, left, source_height, source_width)
    size = [visible_height, visible_width]
    image = functional.resized_crop(tv_tensors.Image(image), *window, size, InterpolationMode.BILINEAR, antialias=True)
    padding = [0, 0, crop_width - visible_width, crop_height - visible_height]
    pad = torch.zeros(crop_height, crop_width, dtype=torch.bool)
    if any(padding):
        image = functional.pad(image, padding, fill=list(PAD_COLOR))
        pad[visible_height:] = True
        pad[:, visible_width:] = True
    if label is not None:
        mask = functional.resized_crop(tv_tensors.Mask(label.unsqueeze(0)), *window, size, InterpolationMode.NEAREST)
        label = functional.pad(mask, padding, fill=IGNORE).squeeze(0).as_subclass(Tensor)
    image = image.as_subclass(Tensor)
    if draw[3] < config.flip:
        image, pad = image.flip(-1), pad.flip(-1)
        label = label.flip(-1) if label is not None else None
    return View(image, label, pad)
