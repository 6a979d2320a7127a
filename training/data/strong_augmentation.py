"""Strong photometric views of one image. No geometry: labels of the weak view stay true pixel by pixel.

A view is called as `view(image, random) -> (image, cut)`: image uint8 (0 to 255) or float (0 to 1) `[3, h, w]`, the
same type back; cut bool `[h, w]`, True where CutOut removed the image. All randomness comes from the generator.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional

MEAN_COLOR = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]: 0 after normalization
MMSEG_BRIGHTNESS = 32 / 255
MMSEG_HUE = 18 / 180  # OpenCV counts 180 hues a turn
CONTRAST_RANGE = (0.5, 1.5)
ENHANCE_RANGE = (0.05, 0.95)
BLUR_RANGE = (0.1, 2.0)


def unimatch_view(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """FixMatch's and UniMatch's view: SimCLR-strength jitter (p 0.8), gray (p 0.2), blur of sigma 0.1 to 2 (p 0.5)."""
    jitter, gray, blur, sigma = _uniform(4, random)
    if jitter < 0.8:
        image = color_jitter(image, random, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)
    if gray < 0.2:
        image = functional.rgb_to_grayscale(image, num_output_channels=3).contiguous()  # three views of one plane
    if blur < 0.5:
        image = gaussian_blur(image, _between(BLUR_RANGE, sigma))
    return image, _nothing_cut(image)


def pseudoseg_view(
    image: Tensor, random: Generator, cutout_size: int = 100, strength: float = 0.5
) -> tuple[Tensor, Tensor]:
    """PseudoSeg's and PC2Seg's view: jitter with additive brightness, always on, then CutOut.

    The paper's CutOut is 50 x 50; in its code 50 is half the side, so 100 is what the published numbers used.
    `strength` is that of brightness, contrast and saturation, and twice that of hue.
    """
    image = color_jitter(image, random, strength, strength, strength, hue=strength / 2, additive=True)
    return cut_out(image, random, cutout_size)


def photometric_distortion(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """mmsegmentation's jitter (S4Former): brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-18 of 180.

    Each with p 0.5. Contrast scales the values themselves (not around their mean) and comes second or last, at even
    odds. Saturation is torchvision's blend with gray, where mmsegmentation scales S of HSV.
    """
    use_brightness, use_contrast, use_saturation, use_hue, contrast_last, *amounts = _uniform(9, random)

    def scale(image: Tensor) -> Tensor:
        return (
            functional.adjust_brightness(image, _between(CONTRAST_RANGE, amounts[1])) if use_contrast < 0.5 else image
        )

    if use_brightness < 0.5:
        image = add_brightness(image, MMSEG_BRIGHTNESS * (2 * amounts[0] - 1))
    if contrast_last >= 0.5:
        image = scale(image)
    if use_saturation < 0.5:
        image = functional.adjust_saturation(image, _between(CONTRAST_RANGE, amounts[2]))
    if use_hue < 0.5:
        image = functional.adjust_hue(image, MMSEG_HUE * (2 * amounts[3] - 1))
    if contrast_last < 0.5:
        image = scale(image)
    return image, _nothing_cut(image)


AUGSEG_OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image, level: image,
    lambda image, level: functional.autocontrast(image),
    lambda image, level: functional.equalize(image),
    lambda image, level: gaussian_blur(image, _between(BLUR_RANGE, level)),
    lambda image, level: functional.adjust_contrast(image, _between(ENHANCE_RANGE, level)),
    lambda image, level: functional.adjust_brightness(image, _between(ENHANCE_RANGE, level)),
    lambda image, level: functional.adjust_saturation(image, _between(ENHANCE_RANGE, level)),
    lambda image, level: functional.adjust_sharpness(image, _between(ENHANCE_RANGE, level)),
    lambda image, level: functional.posterize(image, 4 + int(4 * level)),  # 4 to 7 bits
    lambda image, level: functional.solarize(image, level * (1 if image.is_floating_point() else 255)),
    lambda image, level: functional.adjust_hue(image, level - 0.5),
)
"""Each takes the image and a level, uniform in [0, 1)."""


def augseg_view(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """AugSeg's random-intensity set: one to three operations, drawn with replacement, each at a uniform level."""
    count, *draws = _uniform(7, random)
    for choice, level in list(zip(draws[:3], draws[3:], strict=True))[: 1 + int(3 * count)]:
        image = AUGSEG_OPERATIONS[int(len(AUGSEG_OPERATIONS) * choice)](image, level)
    return image, _nothing_cut(image)


def color_jitter(
    image: Tensor,
    random: Generator,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    additive: bool = False,
) -> Tensor:
    """Four color changes in random order (Chen et al., SimCLR, 2020, appendix A).

    Args:
        image: see the module.
        random: source of randomness.
        brightness: factor 1 +- this, or with `additive` (PseudoSeg) a shift of +- this on the [0, 1] scale.
        contrast: factor 1 +- this, around the mean gray.
        saturation: factor 1 +- this.
        hue: shift of +- this, in turns (at most 0.5).
        additive: see `brightness`.
    """
    amounts = [2 * amount - 1 for amount in _uniform(4, random)]
    for operation in torch.randperm(4, generator=random, device=random.device).tolist():
        if operation == 0 and additive:
            image = add_brightness(image, brightness * amounts[0])
        elif operation == 0:
            image = functional.adjust_brightness(image, max(1 + brightness * amounts[0], 0))
        elif operation == 1:
            image = functional.adjust_contrast(image, max(1 + contrast * amounts[1], 0))
        elif operation == 2:
            image = functional.adjust_saturation(image, max(1 + saturation * amounts[2], 0))
        else:
            image = functional.adjust_hue(image, hue * amounts[3])
    return image


def add_brightness(image: Tensor, shift: float) -> Tensor:
    """Add `shift` (on the [0, 1] scale) to every value, clipped to the type's range."""
    if image.is_floating_point():
        return (image + shift).clamp(0, 1)
    return (image.short() + round(255 * shift)).clamp(0, 255).to(image.dtype)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, cut at 3 sigma (or at the image's size), as two one-dimensional passes."""
    height, width = image.shape[-2:]
    radius = math.ceil(3 * sigma)
    wide, tall = 2 * min(radius, width - 1) + 1, 2 * min(radius, height - 1) + 1
    blurred = functional.to_dtype(image, torch.float32, scale=True)
    blurred = functional.gaussian_blur(blurred, [wide, 1], [sigma, sigma])
    blurred = functional.gaussian_blur(blurred, [1, tall], [sigma, sigma]).clamp(0, 1)
    return blurred.to(image.dtype) if image.is_floating_point() else (255 * blurred).round().to(image.dtype)


def cut_out(image: Tensor, random: Generator, size: int) -> tuple[Tensor, Tensor]:
    """Fill one square with the mean color (DeVries & Taylor, "CutOut", 2017): (image, cut).

    Its center is any pixel, so at the border it is clipped. `size` is the whole side.
    """
    height, width = image.shape[-2:]
    down, right = _uniform(2, random)
    top, left = int(down * height) - size // 2, int(right * width) - size // 2
    cut = _nothing_cut(image)
    cut[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = True
    color = torch.tensor(MEAN_COLOR, device=image.device).view(3, 1, 1)
    fill = color.to(image.dtype) if image.is_floating_point() else (255 * color).round().to(image.dtype)
    return torch.where(cut, fill, image), cut


def with_cut_out(
    image: Tensor, random: Generator, view: Callable[[Tensor, Generator], tuple[Tensor, Tensor]], size: int
) -> tuple[Tensor, Tensor]:
    """Another view, and then CutOut."""
    image, cut = view(image, random)
    image, more = cut_out(image, random, size)
    return image, cut | more


def same_view(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """The image itself."""
    return image, _nothing_cut(image)


StrongViewName = Literal["none", "photometric", "unimatch", "augseg", "pseudoseg"]
STRONG_VIEWS: dict[StrongViewName, Callable[[Tensor, Generator], tuple[Tensor, Tensor]]] = {
    "none": same_view,
    "photometric": photometric_distortion,
    "unimatch": unimatch_view,
    "augseg": augseg_view,
    "pseudoseg": pseudoseg_view,
}
"""By the names that recipes use."""


def _uniform(count: int, random: Generator) -> list[float]:
    return torch.rand(count, generator=random, device=random.device, dtype=torch.float64).tolist()


def _between(bounds: tuple[float, float], level: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * level


def _nothing_cut(image: Tensor) -> Tensor:
    return torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
