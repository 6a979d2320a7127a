"""Class maps as PNG files."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from semseg_app.masks.png_encoder import encode_png

COMPRESS_LEVEL = 1
"""zlib's level. Class maps are long runs of one value: higher levels take several times as long for a few percent."""

Palette = Sequence[tuple[int, int, int]]


def indexed_png(classes: np.ndarray, palette: Palette, text: Mapping[str, str] | None = None) -> bytes:
    """uint8 `[H, W]` -> PNG (mode P, 8 bits): pixel values are class indices, viewers show the palette's colors.

    `text` is stored in the file as compressed text chunks.
    """
    return encode_png(classes, _table(tuple(palette)), text)


def color_png(classes: np.ndarray, palette: Palette) -> bytes:
    """uint8 `[H, W]` -> RGB PNG in the palette's colors."""
    return encode_png(colorize(classes, palette))


def gray_png(values: np.ndarray) -> bytes:
    """uint8 `[H, W]` -> grayscale PNG of 8 bits."""
    return encode_png(values)


def colorize(classes: np.ndarray, palette: Palette) -> np.ndarray:
    """uint8 `[H, W]` -> uint8 RGB `[H, W, 3]`; values beyond the palette are black."""
    colored: np.ndarray = _table(tuple(palette))[classes]
    return colored


@lru_cache(maxsize=64)
def _table(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table.flags.writeable = False
    return table
