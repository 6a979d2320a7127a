"""Images of any size, file to file: read, segmented and written by strips, in memory that one row of tiles sets."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semseg_app.files import atomic_file
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.strips import Strips
from semseg_app.inference.tiling import Tile
from semseg_app.masks import Palette
from semseg_app.masks.png_strips import PngStrips
from semseg_app.plots.overlays import overlay

PREVIEW_SIDE = 2048
"""Longest side of the picture of a large image. The class map itself has the image's size."""


class LargeResult(NamedTuple):
    """What was found in one image. The class map lies in its file."""

    height: int
    width: int
    pixels: np.ndarray
    """int64 `[256]`, pixels of each class index."""
    mean_confidence: float | None
    """Over all pixels, 0 to 1. None where it was not asked for."""
    preview: np.ndarray | None
    """uint8 RGB, at most PREVIEW_SIDE a side: the photo under the class colors. None unless asked for."""


def segment_large(
    source: Path,
    predictor: Predictor,
    mask: Path,
    *,
    palette: Palette | None = None,
    text: Mapping[str, str] | None = None,
    preview: bool = False,
    confidence: bool = True,
    progress: Callable[[float], None] = lambda done: None,
) -> LargeResult:
    """Segment an image file into an indexed PNG, whole or not at all.

    Args:
        source: JPEG, PNG, TIFF or WebP of any size.
        predictor: its tile must not be None; what it keeps of each tile goes straight into the file.
        mask: the PNG to write; pixel values are class indices.
        palette: colors that viewers show; None = those of the engine's labels.
        text: travels in the PNG as text chunks.
        preview: also make a picture of the result. It reads the file a second time.
        confidence: also take its mean.
        progress: told the share of the rows that are written, 0 to 1, after each row of tiles. What it raises ends
            the work; no file is left then.

    Raises:
        UserError: the image cannot be read, or the mask not be written.
    """
    if predictor.tile is None:
        raise ValueError("a predictor without tiles takes whole images; give it a tile")
    strips = Strips(source)
    height, width = strips.height, strips.width
    palette = predictor.engine.labels.palette if palette is None else palette
    shrink = max(1.0, max(height, width) / PREVIEW_SIDE)
    small = Nearest(height, width, max(1, round(height / shrink)), max(1, round(width / shrink)))
    pixels = np.zeros(256, np.int64)
    certain = 0
    with atomic_file(mask) as part, PngStrips(part, height, width, palette, text) as png:
        rows = np.empty((0, width), np.uint8)  # of the row of tiles that is being answered
        for tile, classes, sure in _answers(predictor, strips, confidence):
            keep = tile.keep
            if keep.left == 0:
                rows = np.empty((keep.height, width), np.uint8)
            kept = tile.kept(classes)
            rows[:, keep.left : keep.left + keep.width] = kept
            pixels += np.bincount(kept.ravel(), minlength=256)
            if sure is not None:
                certain += int(tile.kept(sure).sum(dtype=np.int64))
            if keep.left + keep.width == width:
                png.write(rows)
                if preview:
                    small.take(keep.top, rows)
                progress((keep.top + keep.height) / height)
    picture = overlay(strips.preview(*small.pixels.shape), small.pixels, palette) if preview else None
    return LargeResult(height, width, pixels, certain / (255 * height * width) if confidence else None, picture)


def _answers(
    predictor: Predictor, strips: Strips, confidence: bool
) -> Iterator[tuple[Tile, np.ndarray, np.ndarray | None]]:
    """Each tile with its class map and, where it is asked for, its confidence uint8 `[h, w]`."""
    if confidence:
        for tile, answer in predictor.predict_tiles(strips.read, strips.height, strips.width):
            yield tile, answer.classes, answer.confidence
    else:
        for tile, classes in predictor.class_map_tiles(strips.read, strips.height, strips.width):
            yield tile, classes, None


class Nearest:
    """A class map made smaller without mixing values, from rows that come one strip after the other."""

    def __init__(self, height: int, width: int, small_height: int, small_width: int):
        self.pixels = np.zeros((small_height, small_width), np.uint8)
        """uint8 `[small_height, small_width]`, filled as far as rows have come."""
        self._rows = _centers(height, small_height)
        self._columns = _centers(width, small_width)

    def take(self, top: int, rows: np.ndarray) -> None:
        """Rows `top` and following of the large map, uint8 `[h, width]`."""
        first, end = np.searchsorted(self._rows, [top, top + len(rows)])
        self.pixels[first:end] = rows[self._rows[first:end] - top][:, self._columns]


def _centers(length: int, small: int) -> np.ndarray:
    """The pixel under the middle of each of `small` equal parts of `length`."""
    middles: np.ndarray = ((np.arange(small) + 0.5) * (length / small)).astype(np.intp)
    return middles
