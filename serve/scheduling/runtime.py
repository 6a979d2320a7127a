"""What works for one model while the server runs: its queue, the shared workers, and where its time is counted."""

import math
from concurrent.futures import Future

import numpy as np

from semseg_app.inference.engines.base import BucketEngine, Engine
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.tiling import TILE
from semseg_app.serve.metrics import Metrics
from semseg_app.serve.scheduling.queue import Batcher, Run
from semseg_app.serve.scheduling.tiled import QueuedEngine, submit_tiled
from semseg_app.serve.scheduling.workers import Workers


class ModelRuntime:
    """One model's part of a running server.

    Args:
        name: under which the model is served.
        engine: of the model; `use` replaces it.
        batcher: the worker of the engine's device.
        workers: what all models share.
        metrics: where times are counted.
        pace_s: within how many seconds a large image is to be answered while small ones keep coming.
    """

    def __init__(self, name: str, engine: Engine, batcher: Batcher, workers: Workers, metrics: Metrics, pace_s: float):
        self.name = name
        self.queue = batcher.queue(engine, name)
        self.workers = workers
        self.metrics = metrics
        self.max_batch = batcher.max_batch
        self._pace_s = pace_s
        self.use(engine)

    def use(self, engine: Engine) -> None:
        """Let `engine` answer what comes from now on."""
        # Found out once: isinstance of a protocol takes 20 us.
        self._height, self._width = TILE, TILE
        if isinstance(engine, BucketEngine):
            self._height, self._width = engine.largest.height, engine.largest.width
        self.queue.engine = engine

    def pixels_to_run(self, pixels: int) -> tuple[int, bool]:
        """What the engine gets of an image of so many pixels, and whether in tiles: these overlap, so it is more."""
        if pixels <= self._height * self._width:
            return pixels, False
        side = math.isqrt(pixels)
        windows = [tile.window for tile in self._predictor(self.queue.engine).tiles(side, side)]
        return sum(window.height * window.width for window in windows), True

    def at_once(self, image: np.ndarray) -> bool:
        """Whether the engine takes an image of this size whole; others go in tiles."""
        height, width = image.shape[:2]
        return bool(height <= self._height and width <= self._width)

    def submit(self, image: np.ndarray, confidence: bool) -> "Future[Run]":
        """Put uint8 RGB `[H, W, 3]` of any size into the queue; large ones in tiles.

        `confidence`: whether the answer must have it.
        """
        if self.at_once(image):
            return self.queue.submit(image, confidence=confidence)
        return submit_tiled(image, self.queue, self._predictor, self.workers.tilers, self._pace_s, confidence)

    def predictor(self, work: "Future[None]") -> Predictor:
        """For a file that is read in strips: its tiles wait in the queue between the images of requests.

        Once `work` is cancelled, the next tile raises CancelledError.
        """
        return self._predictor(QueuedEngine(self.queue, work))

    def _predictor(self, engine: Engine) -> Predictor:
        return Predictor(engine, min(self._height, self._width), batch_size=self.max_batch)

    def count(self, run: Run) -> None:
        """Count the time that a run took."""
        self.metrics.observe(self.name, "wait", run.wait_ms / 1000)
        self.metrics.observe(self.name, "infer", run.infer_ms / 1000)
