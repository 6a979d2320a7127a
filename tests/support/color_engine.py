"""An engine without a model: the class of a pixel is its strongest channel. Also a program that serves it."""

import sys
import threading
import time

import numpy as np

from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace


class ColorEngine:
    """Red is class 0, green 1, blue 2; the confidence is the strongest channel's value."""

    name, kind, device, precision = "colors", "fake", "cpu", "fp32"
    labels = LabelSpace(classes=["red", "green", "<blue>"], palette=[(200, 30, 30), (30, 200, 30), (30, 30, 200)])

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._busy = threading.Lock()

    def infer(self, images: np.ndarray) -> Prediction:
        """As the protocol says; a second call at the same time fails, as a real engine may."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two calls at once")
        try:
            time.sleep(self.seconds)
            return Prediction(images.argmax(axis=3).astype(np.uint8), images.max(axis=3))
        finally:
            self._busy.release()


if __name__ == "__main__":
    from semseg_app.serve.config import ServeConfig
    from semseg_app.serve.server import claim_address, run_server

    engine = ColorEngine(seconds=float(sys.argv[1]))
    infer = engine.infer
    engine.infer = lambda images: (print(images.shape, flush=True), infer(images))[1]
    run_server(engine, claim_address("127.0.0.1", 0), ServeConfig(demo=False))
