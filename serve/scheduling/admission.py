"""A request's stay in the house: its place, the memory of its decoded image, and the threads that work for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import numpy as np

from semseg_app.inference.decode import Resize, decode_image, memory_needed
from semseg_app.machine import cores
from semseg_app.serve.metrics import Metrics, Stage
from semseg_app.serve.scheduling.queue import Lane, Overloaded

BYTES_PER_PIXEL = 8
"""Of a decoded image and its answer, in the budget of PIXELS_IN_MEMORY; some decoders take more while they work."""

PIXELS_IN_MEMORY = 64_000_000
"""How many pixels are decoded at any moment, of all requests, at about 8 bytes each. Others wait as they came."""

IMAGES_IN_MEMORY = 16
"""How many images, likewise, where no call of an engine takes more than half of them: enough to keep it busy."""

P = ParamSpec("P")
T = TypeVar("T")


class Workshop:
    """What all requests share: threads that decode, threads that encode, and the room for decoded images.

    Args:
        max_pixels: largest image, width x height.
        metrics: where the stages are timed.
        images: how many of them are decoded at any moment.
    """

    def __init__(self, max_pixels: int, metrics: Metrics, images: int = IMAGES_IN_MEMORY):
        self.max_pixels = max_pixels
        self.metrics = metrics
        self._limit = max(PIXELS_IN_MEMORY, max_pixels)
        self._used = 0
        self._most_images = images
        self._images = 0
        self._changed = threading.Condition()
        # Two pools: decoders may wait for memory that only a request which still has to encode gives back.
        threads = cores()
        self.decoders = ThreadPoolExecutor(threads, "semseg-decode")
        self.encoders = ThreadPoolExecutor(threads, "semseg-encode")
        self.tilers = ThreadPoolExecutor(4, "semseg-tiles")
        """They do little but wait; so many large images are in work at once."""
        self.loop_is_behind: Callable[[], bool] = lambda: False
        """Whether the event loop has yet to render what it was left last. Of the device's threads."""

    def take(self, pixels: int, wait: bool = True) -> None:
        """Block until one more image of so many pixels fits; or take it all the same."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._has_room(pixels))
            self._used += pixels
            self._images += 1

    def _has_room(self, pixels: int) -> bool:
        """An image that is larger than the whole budget is decoded alone."""
        return not self._used or (self._images < self._most_images and self._used + pixels <= self._limit)

    def give_back(self, pixels: int) -> None:
        """It was let go of."""
        with self._changed:
            self._used -= pixels
            self._images -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads."""
        for threads in (self.decoders, self.encoders, self.tilers):
            threads.shutdown(cancel_futures=True)


class TooMuchAtOnce(Exception):
    """The image has more pixels than the thread that was to decode it has time for."""


class Places:
    """How many requests one model has in the house at once, from before their body is read until they are answered.

    No more than `most`, and no more than it can answer within `timeout_s` at the speed that it has shown: whoever would
    wait in vain is told so at once.
    """

    def __init__(self, lane: Lane, workshop: Workshop, model: str, most: int, timeout_s: float):
        self._lane = lane
        self._workshop = workshop
        self._metrics = workshop.metrics
        self._model = model
        self._most = most
        self._timeout_s = timeout_s
        self.taken = 0

    def check(self) -> None:
        """Overloaded when none is left. In the event loop alone."""
        in_vain = self.taken > 0 and self._lane.seconds_for(self.taken + 1) > self._timeout_s
        if self.taken >= self._most or in_vain:
            raise Overloaded(self._lane.retry_after_s(self.taken))

    def take(self) -> "Place":
        """One of them. Overloaded when none is left. In the event loop alone."""
        self.check()
        return Place(self, self._lane, self._workshop, self._model)


class Place:
    """One request about one image, as a context manager in the event loop. Leaving it frees place and memory."""

    def __init__(self, places: Places, lane: Lane, workshop: Workshop, model: str):
        self._places = places
        self._lane = lane
        self.workshop = workshop
        self._model = model
        self._pixels = 0
        self._left = False
        self._lock = threading.Lock()
        places.taken += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.taken -= 1
        with self._lock:
            self._left = True
            if self._pixels:
                self.workshop.give_back(self._pixels)

    async def decode(self, data: bytes, resize: Resize | None = None) -> np.ndarray:
        """Encoded image -> uint8 RGB `[H, W, 3]`, in a thread; once a place. As `decode_image`, which see.

        The image counts as on its way to the queue until this returns: hand it to `run` without awaiting anything.
        """
        loop = asyncio.get_running_loop()
        self._lane.expect(1)
        try:
            return (await loop.run_in_executor(self.workshop.decoders, self.decode_here, data, resize))[0]
        finally:
            # Once the caller has gone on, to put the image into the queue.
            loop.call_soon(self._lane.expect, -1)

    async def encode(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make the answer, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.workshop.encoders, partial(self._encode, work, *args, **kwargs))

    def decode_here(
        self, data: bytes, resize: Resize | None = None, most: int | None = None
    ) -> tuple[np.ndarray, float]:
        """Like `decode`, in this thread: the image and the milliseconds. With `most` it does not wait for memory.

        TooMuchAtOnce when the image has more than `most` pixels.
        """

        def admit(pixels: int) -> None:
            if most is not None and pixels > most:
                raise TooMuchAtOnce
            if pixels > 1_000_000:  # the header is read once more, which costs small images too much
                pixels = max(pixels, memory_needed(data, self.workshop.max_pixels) // BYTES_PER_PIXEL)
            self._admit(pixels, wait=most is None)

        start = time.perf_counter()
        with self.timed("decode"):
            image = decode_image(data, self.workshop.max_pixels, admit, resize)
        return image, (time.perf_counter() - start) * 1000

    def timed(self, stage: Stage) -> AbstractContextManager[None]:
        """Time a block as that stage of this place's model."""
        return self.workshop.metrics.stage(self._model, stage)

    def _encode(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.timed("encode"):
            return work(*args, **kwargs)

    def _admit(self, pixels: int, wait: bool) -> None:
        """Called by the decoder that has read the header."""
        assert not self._pixels, "one image a place"
        self.workshop.take(pixels, wait)
        with self._lock:
            if self._left:  # its client went away meanwhile
                self.workshop.give_back(pixels)
            else:
                self._pixels = pixels
