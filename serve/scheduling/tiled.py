"""Images larger than an engine takes at once: their tiles go through the queue, between the images of others."""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np

from semseg_app.inference.engines.base import Engine, Prediction
from semseg_app.inference.predictor import Predictor
from semseg_app.serve.scheduling.queue import ModelQueue, Run


def submit_tiled(
    image: np.ndarray,
    queue: ModelQueue,
    predictor_of: Callable[[Engine], Predictor],
    threads: ThreadPoolExecutor,
    pace_s: float,
    confidence: bool,
) -> "Future[Run]":
    """Like `ModelQueue.submit`, for uint8 RGB `[H, W, 3]` of any size; one of `threads` cuts it and joins the answers.

    No more than one batch of its tiles is in the queue, so others get their turn. A tile behind an even pace of
    `pace_s` seconds for the whole image goes before images that came after its turn: otherwise small images that keep
    coming would make a large one late. Cancelling the future works at any time: no further tile begins.
    """
    future: Future[Run] = Future()
    queued = QueuedEngine(queue, future)
    predictor = predictor_of(queued)
    queued.pace = pace_s / sum(tile.window.height * tile.window.width for tile in predictor.tiles(*image.shape[:2]))
    asked = time.perf_counter()

    def work() -> None:
        try:
            classes, sure = predictor.predict(image) if confidence else (predictor.class_map(image), None)
        except BaseException as error:
            # Only from here on it is "running", which cannot be cancelled any more.
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        if future.set_running_or_notify_cancel():
            future.set_result(Run(classes, sure, queued.engine, (queued.began - asked) * 1000, queued.infer_ms, 1))

    threads.submit(work)
    return future


class QueuedEngine:
    """An engine in the eyes of a Predictor; its calls wait for their turn in a queue.

    Args:
        queue: of the model.
        work: once it is cancelled, the next call raises CancelledError.
    """

    pace: float | None = None
    """Seconds per pixel at which the work is to go on, see `submit_tiled`; None = always behind what waits."""

    def __init__(self, queue: ModelQueue, work: "Future[Run] | Future[None]"):
        self.engine = queue.engine
        self.name, self.kind, self.labels = self.engine.name, self.engine.kind, self.engine.labels
        self.device, self.precision = self.engine.device, self.engine.precision
        self.began = 0.0
        """When its first tile entered the real engine."""
        self.infer_ms = 0.0
        self._queue = queue
        self._work = work
        self._start = time.perf_counter()
        self._pixels = 0

    def infer(self, images: np.ndarray) -> Prediction:
        """CancelledError once the work is cancelled."""
        runs = self._run(images, confidence=True)
        return Prediction(
            np.stack([run.classes for run in runs]),
            np.stack([run.confidence for run in runs if run.confidence is not None]),
        )

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The class maps of `infer` alone. CancelledError as there."""
        return np.stack([run.classes for run in self._run(images, confidence=False)])

    def _run(self, images: np.ndarray, confidence: bool) -> list[Run]:
        if self._work.cancelled():
            raise CancelledError
        now = time.perf_counter()
        turn = now if self.pace is None else min(now, self._start + self._pixels * self.pace)
        futures = [self._queue.submit(image, self.engine, turn, confidence) for image in images]
        runs = [future.result() for future in futures]
        self._pixels += images.shape[0] * images.shape[1] * images.shape[2]
        self.began = self.began or turn + runs[0].wait_ms / 1000
        self.infer_ms += sum(run.infer_ms / run.batch for run in runs)
        return runs
