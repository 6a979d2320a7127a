"""What engines on a CPU share: the answer to a batch of photos from their coarse logits."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from semseg_app import machine
from semseg_app.inference.class_map import Grid, class_and_confidence_map, class_map, grid_of
from semseg_app.inference.engines.base import Prediction


class Decoder:
    """Reads the logits of one network.

    Args:
        stride: photos were padded, right and bottom, to multiples of it.
        threads: that share the work; None = `machine.threads`.
    """

    def __init__(self, stride: int, threads: int | None = None):
        self._stride = stride
        threads = threads or machine.threads()
        self._executor = ThreadPoolExecutor(threads, "semseg-logits") if threads > 1 else None

    def classes(self, logits: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Class maps of photos of a size (height, width): float32 `[N, C, h, w]` -> uint8 `[N, H, W]`."""
        grid = self._grid(logits, size)
        return np.stack([class_map(own, grid) for own in logits])

    def prediction(self, logits: np.ndarray, size: Sequence[int]) -> Prediction:
        """Class maps, and how sure they are."""
        grid = self._grid(logits, size)
        classes, confidence = zip(*(class_and_confidence_map(own, grid, self._executor) for own in logits), strict=True)
        return Prediction(np.stack(classes), np.stack(confidence))

    def _grid(self, logits: np.ndarray, size: Sequence[int]) -> Grid:
        height, width = size
        grid = grid_of(logits, height, width, self._stride)
        if grid is None:
            raise RuntimeError(f"logits {list(logits.shape)} do not fit photos of {width}x{height} at {self._stride}")
        return grid
