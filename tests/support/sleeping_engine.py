"""Engines whose speed and memory are known, in a module of their own: the processes that measure them import it."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.benchmark.variants import Variant
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace


class SleepingEngine:
    """Takes so many seconds a call, holds so many megabytes, and fails where told."""

    kind, device, precision = "fake", "cpu", "fp32"
    labels = LabelSpace(classes=["red", "green", "blue"], palette=[(200, 0, 0), (0, 200, 0), (0, 0, 200)])

    def __init__(self, seconds: float, megabytes: int = 0, fails: str = "", threads: int | None = None):
        if fails == "opening":
            raise RuntimeError("no such weights")
        self.name = f"{seconds} {fails}"
        self.seconds, self.fails = seconds, fails
        self.ballast = np.ones(megabytes * 10**6, np.uint8)
        self.busy = threading.Lock()

    def infer(self, images: np.ndarray) -> Prediction:
        assert self.busy.acquire(blocking=False), "two calls at once"
        if self.fails == "running":
            raise RuntimeError("no room\nfor these")
        if self.fails == "dying":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        self.busy.release()
        return Prediction(images.argmax(axis=3).astype(np.uint8), images.max(axis=3))


def sleeping(seconds: float, **keywords: Any) -> Variant:
    opener = partial(SleepingEngine, seconds, **keywords)
    return Variant(f"{seconds}{keywords}", Path("fake"), "fake", "fp32", None, opener)
