"""From uploaded bytes to a class map in one blocking call, for the web page: it runs in threads of its own."""

import time
from typing import NamedTuple

import numpy as np

from semseg_app.inference.decode import decode_image
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.scheduling.registry import Models


class Segmentation(NamedTuple):
    """One segmented photo."""

    image: np.ndarray
    """uint8 RGB [H, W, 3], as decoded."""
    classes: np.ndarray
    """uint8 [H, W], class index."""
    confidence: np.ndarray
    """uint8 [H, W], probability of that class times 255."""
    decode_ms: float
    inference_ms: float
    """The engine's own time; waiting for its turn is not counted."""


class Segmenter:
    """Decodes in the caller's thread, then waits for the engine."""

    def __init__(self, models: Models, name: str | None = None):
        self._models = models
        self._served = models.get(name)

    @property
    def engine(self) -> Engine:
        """The one that answers now."""
        return self._served.engine

    def segment(self, data: bytes) -> Segmentation:
        """Segment an encoded photo. Blocks: call it in a thread. Raises what `decode_image` and `run` raise."""
        start = time.perf_counter()
        image = decode_image(data, self._models.limits.max_pixels)
        decode_ms = (time.perf_counter() - start) * 1000
        run = self._served.run_blocking(image)
        return Segmentation(image, *run.prediction, decode_ms, run.infer_ms)
