"""Tiles for images larger than one run, and the way back. Pure numpy.

For class maps every pixel comes from the tile in which it lies farthest from a tile border: what a network says near a
border lacks half its context. Tiles form a grid, so that choice is made a row and a column at a time, and what a tile
contributes is a rectangle: stitching is slices, and a caller may write each rectangle out as soon as it is there.

For evaluation (`slide`) overlapping windows are averaged instead, probability by probability.
"""

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple, TypeVar

import numpy as np

GRID = 32
"""Tile sides are multiples of the largest stride of a network: tiles and the whole image share one grid of cells."""
TILE, OVERLAP = 1024, 128
"""Longest side of what an engine gets at once, and what neighboring tiles share, by default."""

Item = TypeVar("Item")


class Window(NamedTuple):
    """A rectangle of pixels of an image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """View of `image` `[H, W, ...]` under this window."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


class Tile(NamedTuple):
    """What the network sees, and what of its answer is kept; both in pixels of the image."""

    window: Window
    keep: Window

    def kept(self, answer: np.ndarray) -> np.ndarray:
        """The part of the answer over `window` `[h, w, ...]` that lies under `keep`."""
        keep = self.keep._replace(top=self.keep.top - self.window.top, left=self.keep.left - self.window.left)
        return keep.cut(answer)


def tiles(height: int, width: int, tile_height: int, tile_width: int, overlap: int, grid: int = 1) -> Iterator[Tile]:
    """Cover an image with tiles, row by row; every pixel is kept from exactly one.

    Neighbors overlap by `overlap` pixels, the last ones by more: they are moved inward instead of being cut. A side of
    the image that is shorter than the tile makes the tile as short.

    With a `grid` above 1 every tile begins at a multiple of it, provided that `tile - overlap` is one: the network's
    cells then lie in each tile where they lie in the whole image. The last tiles of a row and of a column are up to
    `grid - 1` pixels shorter for it, and the network pads them as it would pad the whole image.
    """
    rows = _spans(height, tile_height, overlap, grid)
    columns = _spans(width, tile_width, overlap, grid)
    for top, keep_top, keep_bottom in rows:
        for left, keep_left, keep_right in columns:
            yield Tile(
                Window(top, left, min(tile_height, height - top), min(tile_width, width - left)),
                Window(keep_top, keep_left, keep_bottom - keep_top, keep_right - keep_left),
            )


def tile_side(length: int, tile: int = TILE, overlap: int = OVERLAP) -> int:
    """The shortest tile side that needs no more tiles than the longest would: little is computed twice."""
    if length <= tile:
        return length
    count = -(-(length - overlap) // (tile - overlap))
    side = -(-(length + (count - 1) * overlap) // count)
    return min(-(-side // GRID) * GRID, tile)


def _spans(length: int, tile: int, overlap: int, grid: int) -> list[tuple[int, int, int]]:
    """One axis: (start, first pixel kept, one past the last pixel kept) for each tile."""
    if length <= tile:
        return [(0, 0, length)]
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the tile, {tile}")
    last = -(-(length - tile) // grid) * grid
    starts = [*range(0, last, tile - overlap), last]
    # Equally far from the end of one tile and the start of the next.
    seams = [(start + tile + following) // 2 for start, following in pairwise(starts)]
    return list(zip(starts, [0, *seams], [*seams, length], strict=True))


def slide(
    image: np.ndarray,
    probabilities: Callable[[np.ndarray], np.ndarray],
    window: int,
    stride: int,
    batch_size: int = 1,
) -> np.ndarray:
    """Average the probabilities of overlapping windows.

    Args:
        image: uint8 `[H, W, 3]`.
        probabilities: `[N, h, w, 3]` -> float32 `[N, C, h, w]`.
        window: side of the square windows; a shorter image gives shorter windows.
        stride: from one window to the next.
        batch_size: windows a call.

    Returns:
        float32 `[C, H, W]`.
    """
    height, width = image.shape[:2]
    total: np.ndarray | None = None
    count = np.zeros((height, width), np.float32)
    windows = (tile.window for tile in tiles(height, width, window, window, window - stride))
    for group in batches(windows, batch_size):
        answers = probabilities(np.stack([place.cut(image) for place in group]))
        if total is None:
            total = np.zeros((answers.shape[1], height, width), np.float32)
        for place, answer in zip(group, answers, strict=True):
            rows, columns = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
            total[:, rows, columns] += answer
            count[rows, columns] += 1
    assert total is not None
    assert count.min() >= 1
    return total / count


def resize_planes(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centers, borders repeated: float32 `[C, h, w]` -> `[C, height, width]`."""
    if planes.shape[1:] == (height, width):
        return planes
    upper, lower, weight = _taps(planes.shape[1], height)
    planes = planes[:, upper] * (1 - weight)[:, None] + planes[:, lower] * weight[:, None]
    left, right, weight = _taps(planes.shape[2], width)
    resized: np.ndarray = planes[:, :, left] * (1 - weight) + planes[:, :, right] * weight
    return resized


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each target pixel its two source pixels and the weight of the second, float32."""
    centers = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.floor(centers).astype(np.intp)
    return first, np.minimum(first + 1, source - 1), (centers - first).astype(np.float32)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    while group := list(islice(items, size)):
        yield group
