"""The models that one server offers, and the one way from an image to its class map."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import anyio
import anyio.to_thread
import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.decode import decode_image
from semseg_app.inference.engines import Engine, Prediction
from semseg_app.inference.predictor import Predictor

log = logging.getLogger("semseg.serve")

MAX_PIXELS = 32_000_000
PLACES = 64
"""How many requests a model has in the house at once; whoever comes then is sent away with `Overloaded`."""
IMAGES_IN_MEMORY = 4
"""How many uploads are decoded at any moment. Others wait as they came, encoded."""


class Overloaded(Exception):
    """The queue is full. The HTTP API answers 429 with Retry-After."""

    def __init__(self, retry_after_s: int):
        super().__init__(f"too many requests are waiting; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Exception):
    """The answer was not there in time. The HTTP API answers 504."""


class UnknownModel(UserError):
    """No model of that name is served. The HTTP API answers 404."""


class Run(NamedTuple):
    """One image's way through an engine."""

    prediction: Prediction
    engine: Engine
    """Which one answered: its labels are those of the class map, also when the model was reloaded meanwhile."""
    wait_ms: float
    infer_ms: float


class ServedModel:
    """One model under one name; its engine may be replaced while it serves."""

    def __init__(self, engine: Engine, name: str | None = None):
        self.name = name or engine.name
        self.engine = engine
        self._predictor = Predictor(engine)
        self._thread = ThreadPoolExecutor(1, f"semseg-{self.name}")
        self._inside = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the model's places for a request: take it before its body is read. Overloaded when none is left.

        Used in the event loop alone.
        """
        if self._inside >= PLACES:
            raise Overloaded(1)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def segment(self, image: np.ndarray, timeout: float | None = None) -> Prediction:
        """uint8 RGB `[H, W, 3]` -> classes and confidence uint8 `[H, W]`. Cancelled before it began, it never begins.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: no answer within `timeout` seconds.
        """
        return (await self.run(image, timeout)).prediction

    async def run(self, image: np.ndarray, timeout: float | None = None) -> Run:
        """Like `segment`, with the engine that answered and the milliseconds that it took."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(self._submit(image))
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout:g} s") from None

    def run_blocking(self, image: np.ndarray) -> Run:
        """Like `run`, for a thread that is not the event loop's."""
        return self._submit(image).result()

    def warm_up(self) -> None:
        """Run one image through the engine, so that the first visitor does not pay for lazy start-up.

        RuntimeError when the answer does not fit the image or the model's classes: such an engine must not serve.
        """
        image = np.zeros((480, 640, 3), np.uint8)
        classes, confidence = self.run_blocking(image).prediction
        if classes.shape != image.shape[:2] or confidence.shape != image.shape[:2]:
            raise RuntimeError(f"engine {self.engine.kind} answered {classes.shape} for an image of {image.shape[:2]}")
        if int(classes.max()) >= len(self.engine.labels.classes):
            raise RuntimeError(
                f"engine {self.engine.kind} answered class {classes.max()}, which the model does not have"
            )

    def _submit(self, image: np.ndarray) -> "Future[Run]":
        asked = time.perf_counter()

        def work() -> Run:
            start = time.perf_counter()
            prediction = self._predictor.predict(image)
            end = time.perf_counter()
            return Run(prediction, self._predictor.engine, (start - asked) * 1000, (end - start) * 1000)

        return self._thread.submit(work)


class Models:
    """What is served, by name; the first is the one that answers when none is named.

    Args:
        served: at least one; no two of one name (UserError).
        max_pixels: largest image, width x height, checked on its header before it is decoded.
    """

    def __init__(self, served: Sequence[ServedModel], max_pixels: int = MAX_PIXELS):
        self._served = {model.name: model for model in served}
        if len(self._served) < len(served):
            raise UserError("two models have one name; give each its own with --name")
        self.max_pixels = max_pixels
        self._warm_up: asyncio.Task[None] | None = None
        self._slots = anyio.CapacityLimiter(IMAGES_IN_MEMORY)

    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._served)

    def get(self, name: str | None = None) -> ServedModel:
        """The model of that name; None = the first. UnknownModel when there is none."""
        if name is None:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise UnknownModel(f"model {name!r} is not served; there is {', '.join(self._served)}")
        return self._served[name]

    async def decode(self, data: bytes) -> np.ndarray:
        """Encoded photo -> uint8 RGB `[H, W, 3]`, in a thread. Raises what `decode_image` raises."""
        return await anyio.to_thread.run_sync(decode_image, data, self.max_pixels, limiter=self._slots)

    async def start(self) -> None:
        """Begin the warm-up, beside the event loop: /health/live answers while a slow engine starts."""
        self._warm_up = asyncio.create_task(anyio.to_thread.run_sync(self._warm_up_all))
        self._warm_up.add_done_callback(_log_failure)

    async def stop(self) -> None:
        """Wait for what runs."""
        if self._warm_up is not None:
            await asyncio.wait([self._warm_up])

    def why_not_ready(self) -> str | None:
        """None once every model has passed its warm-up, else one line."""
        if self._warm_up is None or not self._warm_up.done():
            return "warming up"
        return "the warm-up failed; the server's log says why" if self._warm_up.exception() else None

    async def reload(self, name: str) -> None:
        """Replace the engine of a model by what its folder holds now."""
        raise NotImplementedError

    def _warm_up_all(self) -> None:
        for model in self._served.values():
            model.warm_up()


def _log_failure(warm_up: "asyncio.Task[None]") -> None:
    if error := warm_up.exception():
        log.error("the warm-up failed", exc_info=error)
