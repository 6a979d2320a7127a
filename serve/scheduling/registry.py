"""The models that one server offers, and the one way from an image to its class map."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.decode import Resize
from semseg_app.inference.engines.base import BucketEngine, Engine, Prediction
from semseg_app.inference.engines.plans import Shape
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.tiling import TILE
from semseg_app.machine import cores
from semseg_app.serve.metrics import Metrics
from semseg_app.serve.scheduling.admission import IMAGES_IN_MEMORY, Place, Places, Workshop
from semseg_app.serve.scheduling.image_task import Pipeline, Render
from semseg_app.serve.scheduling.queue import MAX_DELAY_S, MAX_WAITING, Batcher, Lane, Overloaded, Run
from semseg_app.serve.scheduling.tiled import QueuedEngine, submit_tiled
from semseg_app.serve.scheduling.warm_up import SIZES, warm_up

__all__ = ["DeadlineExceeded", "Limits", "Models", "Overloaded", "Run", "ServedModel", "UnknownModel"]

log = logging.getLogger("semseg.serve")

MAX_PIXELS = 32_000_000
TIMEOUT_S = 30.0
T = TypeVar("T")
MAX_BATCH_ON_GPU = 8
FEW_CORES = 2
"""So many belong to the engine and the event loop; threads that decode and encode would have none of their own."""


class DeadlineExceeded(Exception):
    """The answer was not there in time. The HTTP API answers 504."""


class UnknownModel(UserError):
    """No model of that name is served. The HTTP API answers 404."""


class Limits(NamedTuple):
    """How much a server takes on."""

    max_pixels: int = MAX_PIXELS
    """Largest image, width x height, checked on its header before it is decoded."""
    places: int = MAX_WAITING
    """Requests that one model has in the house; more are refused."""
    timeout_s: float = TIMEOUT_S
    """From when an image is decoded until its answer is there; later it is refused."""
    max_batch: int | None = None
    """Images a call of an engine; None = 1 on a CPU, which gains little from more, and MAX_BATCH_ON_GPU elsewhere."""
    max_delay_s: float = MAX_DELAY_S
    """How long an image waits for others to share a call with, and only while others are on their way."""


class ServedModel:
    """One model under one name; its engine may be replaced while it serves.

    Args:
        engine: what segments.
        name: in addresses and answers; the engine's own unless told.
        reopen: loads the model anew, for `Models.reload`; None = it cannot be reloaded.
        sizes: (height, width) of the images to warm up with, beside the engine's own buckets.
    """

    def __init__(
        self,
        engine: Engine,
        name: str | None = None,
        reopen: Callable[[], Engine] | None = None,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ):
        self.name = name or engine.name
        self._engine = engine
        self._reopen = reopen
        self._sizes = sizes
        self._lane: Lane
        self._places: Places
        self._workshop: Workshop
        self._metrics: Metrics
        self._limits: Limits
        self._max_batch = 1
        self._reloading = asyncio.Lock()

    @property
    def engine(self) -> Engine:
        """The one that answers what comes now."""
        return self._engine

    def place(self) -> Place:
        """A place for a request about one image: `with served.place() as place`, before the body is read.

        Overloaded when none is left.
        """
        self.check_place()
        return self._places.take()

    def check_place(self) -> None:
        """Overloaded, and counted as refused, when there is no place now."""
        try:
            self._places.check()
        except Overloaded:
            self._metrics.rejected(self.name, "overloaded")
            raise

    def predictor(self, wanted: "Future[Any]") -> Predictor:
        """One for images of any size, for a thread of its own: its calls wait in the queue, between those of others.

        `wanted`: once it is cancelled, the next call raises CancelledError.
        """
        return Predictor(QueuedEngine(self._lane, wanted), self._tile(), batch_size=self._max_batch)

    @property
    def free_places(self) -> int:
        """How many more requests about one image it takes in now."""
        return self._limits.places - self._places.taken

    async def segment(self, image: np.ndarray, timeout: float | None = None) -> Prediction:
        """uint8 RGB `[H, W, 3]` -> classes and confidence uint8 `[H, W]`. Cancelled before it began, it never begins.

        Args:
            image: of any size; a large one is done in tiles, between those of others.
            timeout: seconds; None = the server's own limit.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: no answer in time.
        """
        return (await self.run(image, timeout)).prediction

    async def run(self, image: np.ndarray, timeout: float | None = None) -> Run:
        """Like `segment`, with the engine that answered and the milliseconds that it took."""
        try:
            future = self._submit(image)
        except Overloaded:
            self._metrics.rejected(self.name, "overloaded")
            raise
        return await self._in_time(future, timeout)

    async def answer(
        self,
        place: Place,
        data: bytes,
        render: Render[T],
        resize: Resize | None = None,
        quick: bool = False,
        timeout: float | None = None,
    ) -> T:
        """From an encoded image to its answer, in threads. The short way for what takes one image: see `Pipeline`.

        Args:
            place: of this model; one image a place.
            data: the encoded image.
            render: (image, run, milliseconds of decoding) -> the answer; in a thread.
            resize: what size the image gets; as it is unless told.
            quick: whether `render` takes a millisecond at most, as a PNG does: it may then run in the device's thread.
            timeout: as for `segment`.

        Raises what `decode_image`, `segment` and `render` raise.
        """
        pipeline = Pipeline(place, self._lane, self._submit, self._time, data, render, resize, quick)
        try:
            pipeline.start()
            await self._in_time(pipeline.done, timeout)
            return pipeline.answer()
        except Overloaded:
            self._metrics.rejected(self.name, "overloaded")
            raise
        finally:
            pipeline.stop()

    async def _in_time(self, future: "Future[T]", timeout: float | None) -> T:
        timeout = self._limits.timeout_s if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._metrics.rejected(self.name, "deadline")
            raise DeadlineExceeded(f"no answer within {timeout:g} s; try again later") from None
        except asyncio.CancelledError:
            self._metrics.rejected(self.name, "disconnected")
            raise

    def run_blocking(self, image: np.ndarray) -> Run:
        """Like `run`, without a deadline, for a thread that is not the event loop's."""
        return self._submit(image).result()

    def attach(self, batcher: Batcher, workshop: Workshop, limits: Limits) -> None:
        """Take a place in a server."""
        self._lane = batcher.lane(self._engine, self.name)
        self._places = Places(self._lane, workshop, self.name, limits.places, limits.timeout_s)
        self._workshop, self._metrics, self._limits = workshop, workshop.metrics, limits
        self._max_batch = batcher.max_batch
        self._metrics.watch(self.name, lambda: len(self._lane), lambda: self._places.taken)

    def warm_up(self) -> None:
        """See the module of that name."""
        self._check(self._engine)

    async def reload(self) -> None:
        """Load the model anew, warm it up, then let it answer. What was accepted before is answered by the old one.

        UserError when it cannot be loaded; RuntimeError when its warm-up fails. The old one then stays.
        """
        if self._reopen is None:
            raise UserError(f"model {self.name!r} was not loaded from a folder; restart the server")
        async with self._reloading:
            try:
                engine = await asyncio.to_thread(self._reopen)
                if engine.device != self._engine.device:
                    raise UserError(f"it now runs on {engine.device}, not {self._engine.device}; restart the server")
                await asyncio.to_thread(self._check, engine)
            except BaseException:
                self._metrics.reloaded(self.name, "failed")
                raise
            self._engine = self._lane.engine = engine
            self._metrics.reloaded(self.name, "replaced")

    def _check(self, engine: Engine) -> None:
        buckets = [bucket[1:] for bucket in engine.buckets] if isinstance(engine, BucketEngine) else []
        self._lane.seconds_per_image = warm_up(engine, buckets or self._sizes, self._max_batch)
        self._metrics.runs(self.name, engine.kind, engine.device, engine.precision)

    def _submit(self, image: np.ndarray) -> "Future[Run]":
        future = self._queue(image)
        future.add_done_callback(self._time_future)
        return future

    def _time_future(self, ran: "Future[Run]") -> None:
        if not ran.cancelled() and not ran.exception():
            self._time(ran.result())

    def _time(self, run: Run) -> None:
        self._metrics.observe(self.name, "wait", run.wait_ms / 1000)
        self._metrics.observe(self.name, "infer", run.infer_ms / 1000)

    def _queue(self, image: np.ndarray) -> "Future[Run]":
        height, width = self._largest()
        if image.shape[0] <= height and image.shape[1] <= width:
            return self._lane.submit(image)
        return submit_tiled(image, self._lane, self._tile(), self._max_batch, self._workshop.tilers)

    def _largest(self) -> tuple[int, int]:
        """Height and width of what the engine gets at once."""
        largest: Shape | None = getattr(self._engine, "largest", None)  # isinstance of a protocol takes 20 us
        return (TILE, TILE) if largest is None else (largest.height, largest.width)

    def _tile(self) -> int:
        return min(self._largest())


class Models:
    """What is served, by name; the first is the one that answers when none is named.

    Args:
        served: at least one; no two of one name (UserError).
        limits: how much the server takes on.
    """

    def __init__(self, served: Sequence[ServedModel], limits: Limits | None = None):
        self._served = {model.name: model for model in served}
        if len(self._served) < len(served):
            raise UserError("two models have one name; give each its own with --name")
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.stopping = False
        """Set by the server: finish what is here, and send nobody any more."""
        self._batchers: dict[str, Batcher] = {}
        self._workshop: Workshop | None = None
        self._warm_up: asyncio.Task[None] | None = None

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

    async def start(self) -> None:
        """Start the threads, and the warm-up beside the event loop: /health/live answers while a slow engine starts."""
        images = max(IMAGES_IN_MEMORY, 2 * (self.limits.max_batch or 1))
        self._workshop = Workshop(self.limits.max_pixels, self.metrics, images)
        for model in self._served.values():
            device = model.engine.device
            if device not in self._batchers:
                most = self.limits.max_batch or (1 if device == "cpu" else MAX_BATCH_ON_GPU)
                waiting, delay = self.limits.places, self.limits.max_delay_s
                alone = most == 1 and device == "cpu" and cores() <= FEW_CORES
                self._batchers[device] = Batcher(f"semseg-{device}", most, delay, waiting, alone, self.metrics.batch)
            model.attach(self._batchers[device], self._workshop, self.limits)
        self._warm_up = asyncio.create_task(self._warm_up_all())
        self._warm_up.add_done_callback(_log_failure)

    async def warm(self) -> None:
        """Wait until the warm-up has passed. What it raised, when it failed."""
        assert self._warm_up is not None
        await self._warm_up

    async def stop(self) -> None:
        """Finish what was accepted, then end the threads."""
        assert self._warm_up is not None
        assert self._workshop is not None
        await asyncio.wait([self._warm_up])
        for batcher in self._batchers.values():
            await asyncio.to_thread(batcher.close)
        self._batchers.clear()
        await asyncio.to_thread(self._workshop.close)

    def why_not_ready(self) -> str | None:
        """None once every model has passed its warm-up, else one line."""
        if self.stopping:
            return "stopping"
        if self._warm_up is None or not self._warm_up.done():
            return "warming up"
        return "the warm-up failed; the server's log says why" if self._warm_up.exception() else None

    async def reload(self, name: str) -> None:
        """See `ServedModel.reload`. UnknownModel when there is no such model."""
        await self.get(name).reload()

    async def reload_all(self) -> None:
        """Reload every model, one after another; those that cannot be keep their old engine. The log says what came."""
        for name in self.names():
            try:
                await self.reload(name)
            except UserError as error:
                log.error("model %s goes on as it was: %s", name, error)
            except Exception:
                log.exception("model %s goes on as it was", name)
            else:
                engine = self.get(name).engine
                log.warning("model %s reloaded: %s on %s, %s", name, engine.kind, engine.device, engine.precision)

    async def _warm_up_all(self) -> None:
        for model in self._served.values():
            # By the thread that calls the engine later: requests may be waiting for it by now.
            await asyncio.wrap_future(self._batchers[model.engine.device].errand(model.warm_up))


def _log_failure(warm_up: "asyncio.Task[None]") -> None:
    if not warm_up.cancelled() and (error := warm_up.exception()):
        log.error("the warm-up failed", exc_info=error)
