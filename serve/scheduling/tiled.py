"""Images larger than an engine takes at once: their tiles go through the queue, between the images of others."""

import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np

from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.predictor import Predictor
from semseg_app.serve.scheduling.queue import Lane, Run


def submit_tiled(
    image: np.ndarray, lane: Lane, tile: int, batch_size: int, threads: ThreadPoolExecutor
) -> "Future[Run]":
    """Like `Lane.submit`, for uint8 RGB `[H, W, 3]` of any size; one of `threads` cuts it and puts it together again.

    No more than `batch_size` of its tiles are in the queue, so others get their turn. Cancelling the future works at
    any time: no further tile begins.
    """
    lane.refuse_when_full()
    future: Future[Run] = Future()
    queued = QueuedEngine(lane, future)
    asked = time.perf_counter()

    def work() -> None:
        try:
            prediction = Predictor(queued, tile, batch_size=batch_size).predict(image)
        except BaseException as error:
            # Only from here on it is "running", which cannot be cancelled any more.
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        if future.set_running_or_notify_cancel():
            future.set_result(Run(prediction, queued.engine, (queued.began - asked) * 1000, queued.infer_ms, 1))

    threads.submit(work)
    return future


class QueuedEngine:
    """An engine in the eyes of a Predictor; its calls wait for their turn in a lane."""

    def __init__(self, lane: Lane, asked_by: "Future[Run]"):
        self.engine = lane.engine
        self.name, self.kind, self.labels = self.engine.name, self.engine.kind, self.engine.labels
        self.device, self.precision = self.engine.device, self.engine.precision
        self.began = 0.0
        """When its first tile entered the real engine."""
        self.infer_ms = 0.0
        self._lane = lane
        self._asked_by = asked_by

    def infer(self, images: np.ndarray) -> Prediction:
        """CancelledError when nobody waits for the image any more."""
        if self._asked_by.cancelled():
            raise CancelledError
        asked = time.perf_counter()
        runs = [future.result() for future in [self._lane.submit(image, self.engine) for image in images]]
        self.began = self.began or asked + runs[0].wait_ms / 1000
        self.infer_ms += sum(run.infer_ms / run.batch for run in runs)
        classes, confidence = zip(*(run.prediction for run in runs), strict=True)
        return Prediction(np.stack(classes), np.stack(confidence))
