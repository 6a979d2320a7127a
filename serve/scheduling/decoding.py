"""The one function that turns what a caller sent into pixels, within the limits."""

from collections.abc import Callable
from pathlib import Path
from typing import overload

import numpy as np

from semseg_app.inference.decode import ImageTooLarge, Resize, decode_image, memory_needed
from semseg_app.inference.strips import Strips
from semseg_app.serve.scheduling.workers import BYTES_PER_PIXEL

Source = bytes | np.ndarray
"""An encoded photo, or one that is decoded already: uint8 RGB `[H, W, 3]`."""
Reserve = Callable[[int, int], None]
"""(width x height by the header, pixels that count in the memory budget): called before a pixel is decoded."""

SMALL_HEADER_PIXELS = 1_000_000
"""Above this size the header is read once more, for the memory that the decoder needs: too slow for small images."""


@overload
def decode(source: Source, max_pixels: int, reserve: Reserve = ..., resize: Resize | None = ...) -> np.ndarray: ...


@overload
def decode(source: Path, max_pixels: int) -> Strips: ...


def decode(
    source: Source | Path,
    max_pixels: int,
    reserve: Reserve = lambda pixels, memory: None,
    resize: Resize | None = None,
) -> np.ndarray | Strips:
    """Pixels of `source`: uint8 RGB `[H, W, 3]`; of a file a reader that decodes it strip by strip.

    Args:
        source: bytes are decoded; an array is checked and returned; a path is opened.
        max_pixels: largest width x height.
        reserve: called once the size is known; what it raises ends the work.
        resize: upright height and width of a photo -> those to return. For bytes alone.

    Raises `ImageTooLarge` above `max_pixels`, and what `decode_image` and `Strips` raise.
    """
    if isinstance(source, bytes):

        def admit(pixels: int) -> None:
            memory = pixels
            if pixels > SMALL_HEADER_PIXELS:
                memory = max(pixels, memory_needed(source, max_pixels) // BYTES_PER_PIXEL)
            reserve(pixels, memory)

        return decode_image(source, max_pixels, admit, resize)
    if isinstance(source, np.ndarray):
        height, width = source.shape[:2]
        _check(height, width, max_pixels)
        reserve(height * width, height * width)
        return source
    strips = Strips(source)
    _check(strips.height, strips.width, max_pixels)
    return strips


def _check(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageTooLarge(f"the image has {width} x {height} pixels, above the limit of {max_pixels / 1e6:g} million")
