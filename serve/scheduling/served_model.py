"""One served model, and the one way from an image to its answer, which every interface takes."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.decode import Resize
from semseg_app.inference.engines.base import BucketEngine, Engine, Prediction
from semseg_app.inference.engines.halves import Halves
from semseg_app.inference.large import LargeResult, segment_large
from semseg_app.labels import LabelSpace
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.metrics import Metrics
from semseg_app.serve.model_facts import ModelFacts
from semseg_app.serve.scheduling.admission import Admission, Requester, RequestSlot
from semseg_app.serve.scheduling.decoding import Source
from semseg_app.serve.scheduling.image_task import ImageTask, Render
from semseg_app.serve.scheduling.queue import Batcher
from semseg_app.serve.scheduling.runtime import ModelRuntime
from semseg_app.serve.scheduling.segmentation import Segmentation
from semseg_app.serve.scheduling.warm_up import SIZES, warm_up
from semseg_app.serve.scheduling.workers import Workers

AT_ONCE = 8
"""Images of one request that are worked on together, as far as there are request slots."""
PACE = 0.15
"""Fraction of the timeout over which the tiles of a large image are spread while small ones keep coming. The last tile
waits like an image that comes then, so this and FORECAST_MARGIN together must stay below 1."""
WORTH_HALVES_S = 0.005
"""An engine that takes less for an image has no half: two threads would wait for each other in Python."""
DIRECT = Requester()
T = TypeVar("T")
Filter = Callable[[np.ndarray, np.ndarray | None, LabelSpace], np.ndarray]
"""Class map, confidence and the labels of the model -> the class map to keep."""


class ServedModel:
    """One model under one name; its engine may be replaced while it serves.

    Args:
        engine: what segments.
        name: in addresses and answers; default: the engine's own.
        reopen: loads the model anew, for `reload`; None = it cannot be reloaded.
        sizes: (height, width) of the images to warm up with, for engines without sizes of their own.
        describe: score and size of what an engine runs, for the web page.
    """

    def __init__(
        self,
        engine: Engine,
        name: str | None = None,
        reopen: Callable[[], Engine] | None = None,
        sizes: Sequence[tuple[int, int]] = SIZES,
        describe: Callable[[Engine], ModelFacts] = lambda engine: ModelFacts(),
    ):
        self.name = name or engine.name
        self.engine = engine
        """The engine that answers what comes now."""
        self.describe = describe
        self._reopen = reopen
        self._sizes = sizes
        self._admission: Admission
        self._runtime: ModelRuntime
        self._metrics: Metrics
        self._loop: asyncio.AbstractEventLoop
        self._reloading = asyncio.Lock()

    async def segment(
        self,
        source: Source,
        render: Render[T],
        who: Requester = DIRECT,
        *,
        resize: Resize | None = None,
        quick: bool = False,
        confidence: bool = True,
    ) -> T:
        """From an image to its answer: admission, memory, decoding, the queue, the engine, `render`.

        Args:
            source: the encoded image, or uint8 RGB `[H, W, 3]`; a large one is done in tiles, between those of others.
            render: makes the answer, in a thread.
            who: sends the request.
            resize: upright height and width -> the size that the image gets first.
            quick: whether `render` takes a millisecond at most, as a PNG does: it may then run in the device's thread.
            confidence: whether `render` reads it; without it most engines have less to do.

        Raises:
            Overloaded: no request slot is free, or the image would be answered too late.
            DeadlineExceeded: it was not answered in time.

        Also raises what `decode` and `render` raise. Cancelling it stops the work.
        """
        with self._admission.admit(self.name, who) as slot:
            return await self._answer(slot, source, render, resize, quick, confidence)

    async def segment_all(
        self,
        sources: Sequence[Source],
        render: Callable[[int, Segmentation], T],
        who: Requester = DIRECT,
        *,
        names: Sequence[str] = (),
        resize: Resize | None = None,
        quick: bool = False,
        confidence: bool = True,
    ) -> list[T]:
        """Several images of one request: the answers in their order, as `segment` makes them.

        Args:
            sources: the images.
            render: (index, segmented image) -> the answer.
            who: sends the request.
            names: of the images, for messages.
            resize: as of `segment`.
            quick: as of `segment`.
            confidence: as of `segment`.

        Each image that is worked on has a request slot, as far as any are free. The first image that fails ends all;
        a UserError names it.
        """
        answers: dict[int, T] = {}
        waiting = iter(enumerate(sources))

        async def work(slot: RequestSlot) -> None:
            with slot:
                for index, source in waiting:
                    try:
                        answers[index] = await self._answer(
                            slot, source, partial(render, index), resize, quick, confidence
                        )
                    except UserError as error:
                        name = (names[index] if names else "") or "unnamed"
                        raise type(error)(f"image {index + 1} ({name}): {error}") from None

        slots = [self._admission.admit(self.name, who)]
        while len(slots) < min(len(sources), AT_ONCE) and not self._admission.would_refuse(who):
            slots.append(self._admission.admit(self.name, who))
        try:
            async with asyncio.TaskGroup() as group:
                for slot in slots:
                    group.create_task(work(slot))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [answers[index] for index in range(len(sources))]

    def segment_blocking(self, source: Source, who: Requester = DIRECT) -> Segmentation:
        """`segment`, for a thread that is not the event loop's. Raises what `segment` raises."""
        work = self.segment(source, _unchanged, who)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def segment_file(
        self, image: Path, mask: Path, keep: Filter, work: "Future[None]", progress: Callable[[float], None]
    ) -> tuple[LargeResult, Engine]:
        """Segment an image file of any size into an indexed PNG, strip by strip, for a job that was admitted. Blocks.

        Args:
            image: JPEG, PNG, TIFF or WebP.
            mask: the PNG to write.
            keep: what to keep of each tile's answer.
            work: once it is cancelled, CancelledError ends this.
            progress: called with the fraction of the rows that are done.

        Returns the result and the engine that answered. Raises what `segment_large` raises.
        """
        engine = self.engine
        predictor = self._runtime.predictor(work)
        predictor.engine = _Filtered(predictor.engine, keep)
        return segment_large(image, predictor, mask, progress=progress), engine

    def check(self, who: Requester) -> None:
        """Overloaded, and counted as refused, when `who` would get no request slot now."""
        self._admission.check(self.name, who)

    async def _answer(
        self,
        slot: RequestSlot,
        source: Source,
        render: Render[T],
        resize: Resize | None,
        quick: bool,
        confidence: bool,
    ) -> T:
        """One image of an admitted request."""
        task = ImageTask(self._runtime, slot, source, render, resize, quick, confidence)
        try:
            task.start()
            await slot.answer_of(task.done, task.began)
            return task.answer()
        finally:
            task.stop()

    def attach(self, batcher: Batcher, workers: Workers, metrics: Metrics, config: ServeConfig) -> None:
        """Become part of a server, in its event loop."""
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._admission = Admission(metrics, config.max_requests, config.client_share, config.timeout_s)
        pace_s = config.timeout_s * PACE
        self._runtime = ModelRuntime(self.name, self.engine, batcher, workers, metrics, pace_s)
        metrics.watch(self.name, lambda: len(self._runtime.queue), lambda: self._admission.used)

    def warm_up(self) -> None:
        """Run the engine at every size that it is to be fast at; see `warm_up.warm_up`."""
        self._warm_up(self.engine)

    async def reload(self) -> None:
        """Load the model anew, warm it up, then let it answer. What was accepted before is answered by the old one.

        UserError when it cannot be loaded; RuntimeError when its warm-up fails. The old one then stays.
        """
        if self._reopen is None:
            raise UserError(f"model {self.name!r} was not loaded from a folder; restart the server")
        async with self._reloading:
            try:
                engine = await asyncio.to_thread(self._reopen)
                if engine.device != self.engine.device:
                    raise UserError(f"it now runs on {engine.device}, not {self.engine.device}; restart the server")
                await asyncio.to_thread(self._warm_up, engine)
            except BaseException:
                self._metrics.reloaded(self.name, "failed")
                raise
            self.engine = engine
            self._runtime.use(engine)
            self._metrics.reloaded(self.name, "replaced")

    def _warm_up(self, engine: Engine) -> None:
        sizes = [bucket[1:] for bucket in engine.buckets] if isinstance(engine, BucketEngine) else []
        sizes = sizes or list(self._sizes)
        seconds = warm_up(engine, sizes, self._runtime.max_batch)
        if isinstance(engine, Halves) and engine.half:
            if seconds < WORTH_HALVES_S or self._runtime.max_batch > 1:
                engine.half = None
            else:
                warm_up(engine.half, sizes, 1)
        self._admission.expect_speed(seconds, sizes[0][0] * sizes[0][1])
        self._metrics.runs(self.name, engine.kind, engine.device, engine.precision)


class _Filtered:
    """An engine whose answers pass through a filter."""

    def __init__(self, engine: Engine, keep: Filter):
        self.name, self.kind, self.labels = engine.name, engine.kind, engine.labels
        self.device, self.precision = engine.device, engine.precision
        self._engine = engine
        self._keep = keep

    def infer(self, images: np.ndarray) -> Prediction:
        classes, confidence = self._engine.infer(images)
        return Prediction(self._keep(classes, confidence, self.labels), confidence)


def _unchanged(segmented: Segmentation) -> Segmentation:
    return segmented
