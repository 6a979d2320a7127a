"""An engine for images of any size: large ones in tiles, equal ones in batches, memory bounded by tile and batch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import numpy as np

from semseg_app.inference.engines.base import Engine, Prediction, class_maps
from semseg_app.inference.tiling import GRID, OVERLAP, TILE, Tile, Window, batches, tile_side, tiles

Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""What is asked of the engine: uint8 RGB `[N, H, W, 3]` -> one map uint8 `[N, H, W]` or several."""


class Predictor:
    """Runs one engine; like the engine, it takes one call at a time.

    Args:
        engine: what segments.
        tile: longest side of what the engine gets at once, in pixels, taken down to a multiple of GRID; None = whole
            images, however large.
        overlap: pixels that neighboring tiles share at least, taken up to a multiple of GRID where the tile has room;
            half of them is the context that a seam has.
        batch_size: images or tiles a call of the engine.
    """

    def __init__(self, engine: Engine, tile: int | None = TILE, overlap: int = OVERLAP, batch_size: int = 1):
        if tile is not None and not (tile >= GRID and 0 <= overlap < tile):
            raise ValueError(f"tile {tile} must be at least {GRID} and more than the overlap, {overlap}")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        self.engine = engine
        self.tile = tile and tile // GRID * GRID
        overlap_on_grid = -(-overlap // GRID) * GRID
        self.on_grid = self.tile is None or overlap_on_grid < self.tile
        """Whether tiles see the image's cells where a whole run sees them: away from seams both then agree."""
        self.overlap = overlap_on_grid if self.on_grid else min(overlap, (self.tile or 0) - 1)
        self.batch_size = batch_size

    def predict(self, image: np.ndarray) -> Prediction:
        """Segment one image, uint8 RGB `[H, W, 3]` -> classes and confidence uint8 `[H, W]`."""
        return Prediction(*self._stitched(image, self._infer))

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """The classes of `predict` alone, uint8 `[H, W]`: without the confidence, which takes time of its own."""
        (classes,) = self._stitched(image, self._classes)
        return classes

    def predict_tiles(
        self, read: Callable[[Window], np.ndarray], height: int, width: int
    ) -> Iterator[tuple[Tile, Prediction]]:
        """Segment an image that need not be in memory: `read(window)` gives uint8 RGB `[h, w, 3]`.

        Yields each tile, in rows from the top, with the answer over its window; `tile.kept(answer)` is the part to use.
        """
        for tile, maps in self._in_tiles(read, height, width, self._infer):
            yield tile, Prediction(*maps)

    def class_map_tiles(
        self, read: Callable[[Window], np.ndarray], height: int, width: int
    ) -> Iterator[tuple[Tile, np.ndarray]]:
        """The classes of `predict_tiles` alone, uint8 `[h, w]` each."""
        for tile, (classes,) in self._in_tiles(read, height, width, self._classes):
            yield tile, classes

    def tiles(self, height: int, width: int) -> Iterator[Tile]:
        """The tiles in which an image of this size is segmented, in rows from the top."""
        grid = GRID if self.on_grid else 1
        return tiles(height, width, self._side(height), self._side(width), self.overlap, grid)

    def predict_many(self, images: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Segment images in order, neighbors of equal size together. Reads no more than a batch ahead."""
        return (Prediction(*maps) for maps in self._many(images, self._infer))

    def class_maps(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The classes of `predict_many` alone, uint8 `[H, W]` each."""
        return (classes for (classes,) in self._many(images, self._classes))

    def _infer(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.engine.infer(images)

    def _classes(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return (class_maps(self.engine, images),)

    def _many(self, images: Iterable[np.ndarray], run: Run) -> Iterator[tuple[np.ndarray, ...]]:
        """The maps uint8 `[H, W]` of each image."""
        waiting: list[np.ndarray] = []
        for image in images:
            if waiting and image.shape != waiting[0].shape:
                yield from zip(*run(np.stack(waiting)), strict=True)
                waiting = []
            if self._is_large(*image.shape[:2]):
                yield self._stitched(image, run)
                continue
            waiting.append(image)
            if len(waiting) == self.batch_size:
                yield from zip(*run(np.stack(waiting)), strict=True)
                waiting = []
        if waiting:
            yield from zip(*run(np.stack(waiting)), strict=True)

    def _stitched(self, image: np.ndarray, run: Run) -> tuple[np.ndarray, ...]:
        """The maps uint8 `[H, W]` of one image of any size."""
        height, width = image.shape[:2]
        whole: tuple[np.ndarray, ...] = ()
        for tile, maps in self._in_tiles(lambda window: window.cut(image), height, width, run):
            whole = whole or tuple(np.empty((height, width), np.uint8) for _ in maps)
            for target, source in zip(whole, maps, strict=True):
                tile.keep.cut(target)[...] = tile.kept(source)
        return whole

    def _in_tiles(
        self, read: Callable[[Window], np.ndarray], height: int, width: int, run: Run
    ) -> Iterator[tuple[Tile, tuple[np.ndarray, ...]]]:
        """Each tile with the maps uint8 `[h, w]` over its window."""
        for _, equal in groupby(self.tiles(height, width), key=lambda tile: (tile.window.height, tile.window.width)):
            for group in batches(equal, self.batch_size):
                answer = run(np.stack([read(tile.window) for tile in group]))
                yield from zip(group, zip(*answer, strict=True), strict=True)

    def _is_large(self, height: int, width: int) -> bool:
        return self.tile is not None and max(height, width) > self.tile

    def _side(self, length: int) -> int:
        return length if self.tile is None else tile_side(length, self.tile, self.overlap)
