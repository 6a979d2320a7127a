"""The one way from uploaded bytes to a class map, for the API and the web page alike."""

import threading
import time
from typing import NamedTuple

import numpy as np

from semseg_app.inference.decode import decode_image
from semseg_app.inference.engines import Engine
from semseg_app.inference.predictor import Predictor


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
    """Decodes in the caller's thread and lets one image at a time into the engine."""

    def __init__(self, engine: Engine, max_pixels: int):
        self.engine = engine
        self.max_pixels = max_pixels
        self._predictor = Predictor(engine)
        self._turn = threading.Lock()

    def segment(self, data: bytes) -> Segmentation:
        """Segment an encoded photo. Blocks: call it in a thread. Raises what `decode_image` raises."""
        start = time.perf_counter()
        image = decode_image(data, self.max_pixels)
        decode_ms = _milliseconds_since(start)
        with self._turn:
            start = time.perf_counter()
            classes, confidence = self._predictor.predict(image)
            inference_ms = _milliseconds_since(start)
        return Segmentation(image, classes, confidence, decode_ms, inference_ms)

    def warm_up(self) -> None:
        """Run one image through the engine, so that the first visitor does not pay for lazy start-up.

        RuntimeError when the answer does not fit the image or the model's classes: such an engine must not serve.
        """
        image = np.zeros((480, 640, 3), np.uint8)
        with self._turn:
            classes, confidence = self._predictor.predict(image)
        if classes.shape != image.shape[:2] or confidence.shape != image.shape[:2]:
            raise RuntimeError(f"engine {self.engine.kind} answered {classes.shape} for an image of {image.shape[:2]}")
        if int(classes.max()) >= len(self.engine.labels.classes):
            raise RuntimeError(
                f"engine {self.engine.kind} answered class {classes.max()}, which the model does not have"
            )


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
