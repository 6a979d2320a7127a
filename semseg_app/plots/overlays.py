"""Class maps over photos: overlays, legends, class shares."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semseg_app.masks import Palette, colorize


def overlay(image: np.ndarray, classes: np.ndarray, palette: Palette, opacity: float = 0.5) -> np.ndarray:
    """Lay the class colors over a photo.

    Args:
        image: uint8 RGB `[H, W, 3]`.
        classes: uint8 `[H, W]`.
        palette: one RGB color a class.
        opacity: 0 shows the photo alone, 1 the colors alone.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    if image.shape[:2] != classes.shape:
        raise ValueError(f"image {list(image.shape[:2])} and class map {list(classes.shape)} differ in size")
    if not 0 <= opacity <= 1:  # Pillow would go beyond the colors
        raise ValueError(f"opacity {opacity:g}: give 0 (the photo alone) to 1 (the colors alone)")
    colors = Image.fromarray(colorize(classes, palette))
    return np.asarray(Image.blend(Image.fromarray(image), colors, opacity))


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of the pixels that each class covers: uint8 `[H, W]` -> float64 `[num_classes]`, sum 1."""
    counts = np.bincount(classes.ravel(), minlength=num_classes)
    shares: np.ndarray = counts[:num_classes] / classes.size
    return shares


def legend(names: Sequence[str], palette: Palette, shares: np.ndarray | None = None, line: int = 24) -> np.ndarray:
    """Colors and names, one per line, with the share of each class where given: uint8 RGB `[lines * line, W, 3]`."""
    font = ImageFont.load_default(size=line * 0.6)
    texts = (
        list(names) if shares is None else [f"{name}  {share:.1%}" for name, share in zip(names, shares, strict=True)]
    )
    width = line * 2 + max(round(font.getlength(text)) for text in texts)
    image = Image.new("RGB", (width, line * len(texts)), "white")
    draw = ImageDraw.Draw(image)
    inset = line // 6
    for index, (text, color) in enumerate(zip(texts, palette, strict=True)):
        top = index * line
        draw.rectangle((inset, top + inset, line - inset, top + line - inset), fill=tuple(color), outline="black")
        draw.text((line + inset, top + line // 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(image)
