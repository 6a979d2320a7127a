"""A queue before one device: images of one model and one size go through its engine together.

One thread works for one device, so an engine never sees two calls at once. It takes the next batch the moment the
device is free: an image that comes alone runs alone, at once, and batches form by themselves while the device is busy.
Only when more images of the same model are known to be on their way does it wait for them, `max_delay_s` at most.

A CPU may have two threads, for engines that come with a half (see `Halves`): when both have something to do, each
uses half of the cores. An engine without a half still has the device to itself.

Models share a device by time: of those with images waiting, the one that had the least time comes next. So a slow or a
flooded model does not keep a fast one waiting, whichever has more in the queue.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from semseg_app.inference.engines.base import Engine, class_maps
from semseg_app.inference.engines.halves import half_of

MAX_DELAY_S = 0.005


class Run(NamedTuple):
    """What an engine answered about one image, and how long it took."""

    classes: np.ndarray
    """uint8 `[H, W]`."""
    confidence: np.ndarray | None
    """uint8 `[H, W]`; None where no image of the call needed it."""
    engine: Engine
    """The engine that answered: its labels are those of the class map, also when the model was reloaded meanwhile."""
    wait_ms: float
    infer_ms: float
    """Time of the call that the image was in."""
    batch: int
    """How many images were in that call."""


class _Item(NamedTuple):
    """An image that waits."""

    image: np.ndarray
    engine: Engine
    future: "Future[Run]"
    asked: float
    confidence: bool
    """Whether it is needed."""

    def goes_with(self, other: "_Item | _Whole") -> bool:
        """Whether both fit into one call; that gives all of its images their confidence when one of them needs it."""
        return isinstance(other, _Item) and self.engine is other.engine and self.image.shape == other.image.shape


class _Whole(NamedTuple):
    """Work that waits for its turn like an image, and calls the engine itself."""

    work: Callable[[], None]
    future: "Future[Run]"
    asked: float

    def goes_with(self, other: object) -> bool:
        """It goes alone."""
        return False


class ModelQueue:
    """The queue of one model. Made by `Batcher.queue`.

    `engine` may be replaced at any time: what waits by then still goes through the engine that it was meant for.
    """

    def __init__(self, batcher: "Batcher", engine: Engine, name: str):
        self.name = name
        self.engine = engine
        self.coming = 0
        """Images that will be in the queue in a moment: they are being decoded."""
        self.waiting: deque[_Item | _Whole] = deque()
        """Oldest first."""
        self.used_s = 0.0
        """Time on the device, as far as it counts for whose turn it is."""
        self._batcher = batcher

    def __len__(self) -> int:
        """How many images wait."""
        return len(self.waiting)

    def expect(self, change: int) -> None:
        """One more image is on its way (+1), or it is here or will not come (-1)."""
        with self._batcher.lock:
            self.coming += change
        if change < 0:
            self._batcher.wake()

    def submit(
        self,
        image: np.ndarray,
        engine: Engine | None = None,
        asked: float | None = None,
        confidence: bool = True,
    ) -> "Future[Run]":
        """Put uint8 RGB `[H, W, 3]` into the queue. A future that is cancelled in time never reaches the engine.

        Args:
            image: at most as large as the engine takes.
            engine: for a part of an image: the engine that had the other parts.
            asked: since when it waits, on `perf_counter`; None = now. Earlier ones go first.
            confidence: whether the answer must have it.
        """
        future: Future[Run] = Future()
        since = time.perf_counter() if asked is None else asked
        item = _Item(image, engine or self.engine, future, since, confidence)
        with self._batcher.lock:
            self._insert(item)
        self._batcher.wake()
        future.add_done_callback(self._forget_cancelled)
        return future

    def submit_whole(self, work: Callable[[], None]) -> "Future[Run] | None":
        """Have the worker do all of `work` when its turn comes, and call `run_now` in it. `work` raises nothing.

        Returns a future to cancel it with while it waits, which gets no result; or None when others had better prepare
        the image: the worker is busy, and they have cores to do it on.
        """
        future: Future[Run] = Future()
        with self._batcher.lock:
            if not (self._batcher.few_cores or self._batcher.has_nothing_to_do()):
                return None
            self._insert(_Whole(work, future, time.perf_counter()))
        self._batcher.wake()
        future.add_done_callback(self._forget_cancelled)
        return future

    @property
    def few_cores(self) -> bool:
        """See `Batcher`."""
        return self._batcher.few_cores

    def nothing_waits(self) -> bool:
        """Whether the worker would have nothing to do now."""
        return not self._batcher.anything_waits()

    def run_now(self, image: np.ndarray, waited_s: float, confidence: bool) -> Run:
        """For the `work` of `submit_whole`, which waited so long: run uint8 RGB `[H, W, 3]`, which the engine takes at
        once, in this thread."""
        return self._batcher.call(self, self.engine, [image], [time.perf_counter() - waited_s], confidence)[0]

    def can_share(self) -> bool:
        """Whether what comes next may run beside others. With the batcher's lock held, and something waiting."""
        item = self.waiting[0]
        return half_of(item.engine if isinstance(item, _Item) else self.engine) is not None

    def take(self, most: int) -> list[_Item | _Whole]:
        """The item that waits longest and those that go with it, out of the queue. Cancelled ones are dropped.

        With the batcher's lock held.
        """
        batch: list[_Item | _Whole] = []
        rest: deque[_Item | _Whole] = deque()
        for item in self.waiting:
            fits = len(batch) < most and (not batch or item.goes_with(batch[0]))
            if not fits:
                rest.append(item)
            elif item.future.set_running_or_notify_cancel():
                batch.append(item)
        self.waiting = rest
        return batch

    def _insert(self, item: _Item | _Whole) -> None:
        """With the lock held. RuntimeError when the server is stopping."""
        if self._batcher.closed:
            raise RuntimeError("the server is stopping")
        if not self.waiting:
            # Time that it did not ask for is not saved up.
            self.used_s = max(self.used_s, self._batcher.clock_s)
        behind: list[_Item | _Whole] = []
        while self.waiting and self.waiting[-1].asked > item.asked:
            behind.append(self.waiting.pop())
        self.waiting.append(item)
        self.waiting.extend(reversed(behind))

    def _forget_cancelled(self, future: "Future[Run]") -> None:
        """Drop an image whose request has ended.

        A future keeps its callbacks, so this one holds no item: the image would live on until the garbage collector
        comes by, which counts objects and not their megabytes.
        """
        if future.cancelled():
            with self._batcher.lock:
                self.waiting = deque(item for item in self.waiting if item.future is not future)


class Batcher:
    """The workers of one device, and the queues of its models.

    Args:
        name: of the threads.
        max_batch: most images per call of an engine.
        max_delay_s: how long the first of a batch waits for others that are on their way.
        few_cores: the engine has all of them: small images are decoded by a worker even while others wait. Other
            threads would only take turns with it.
        workers: calls of engines at a time: 2 where engines may have halves.
        observe: called after each call of an engine with the model's name and the number of images.
    """

    def __init__(
        self,
        name: str = "semseg-device",
        max_batch: int = 1,
        max_delay_s: float = MAX_DELAY_S,
        few_cores: bool = False,
        workers: int = 1,
        observe: Callable[[str, int], None] = lambda model, images: None,
    ):
        self.max_batch = max_batch
        self.few_cores = few_cores
        self.lock = threading.Lock()
        """Guards all that follows, and the queues."""
        self.closed = False
        self._max_delay_s = max_delay_s
        self._observe = observe
        self._queues: list[ModelQueue] = []
        self._exclusive: deque[Callable[[], object]] = deque()
        self._busy = 0
        """Workers that have a turn."""
        self._idle = 0
        """Workers that wait for one."""
        self._shared = False
        """Whether what runs may have others beside it."""
        self._alarm: SimpleQueue[None] = SimpleQueue()  # a Condition is Python code, and takes longer
        self.clock_s = 0.0
        """The time that the model which has the device had used when it got it."""
        # A daemon: a process that dies for another reason does not hang on an engine.
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def queue(self, engine: Engine, name: str) -> ModelQueue:
        """A queue for one more model."""
        queue = ModelQueue(self, engine, name)
        with self.lock:
            self._queues.append(queue)
        return queue

    def close(self) -> None:
        """Finish what waits, then end. Blocks until it is done."""
        with self.lock:
            self.closed = True
        for _ in self._threads:
            self._alarm.put(None)
        for thread in self._threads:
            thread.join()

    def run_exclusive(self, work: Callable[[], None]) -> "Future[None]":
        """Have a worker use the device for something else, such as a warm-up, before the next batch."""
        future: Future[None] = Future()
        with self.lock:
            self._exclusive.append(partial(_do, work, future))
        self.wake()
        return future

    def wake(self) -> None:
        """Something changed. Not to be called with the lock held, which a worker takes first."""
        if self._is_one_free():
            self._alarm.put(None)

    def has_nothing_to_do(self) -> bool:
        """Whether a worker waits for work. With the lock held."""
        return self._is_one_free() and not self.anything_waits()

    def anything_waits(self) -> bool:
        """Whether there is more to do than what is being done."""
        return bool(self._exclusive) or any(queue.waiting or queue.coming > 0 for queue in self._queues)

    def _is_one_free(self) -> bool:
        """Whether a worker would do what came now."""
        return self._idle > 0 and (self._shared or not self._busy)

    def _work(self) -> None:
        busy = idle = 0
        while True:
            with self.lock:
                self._busy -= busy
                self._idle -= idle
                turn, patience = self._next_turn()
                if turn is None and self.closed:
                    return
                busy, idle = (0, 1) if turn is None else (1, 0)
                self._busy += busy
                self._idle += idle
            if turn is None:
                with contextlib.suppress(Empty):
                    self._alarm.get(timeout=patience)
            else:
                if any(queue.waiting for queue in self._queues):
                    self.wake()
                turn()
            del turn  # it holds on to the images

    def _next_turn(self) -> tuple[Callable[[], object] | None, float | None]:
        """What to do now; or how long to wait for a change, None = for ever."""
        if self._exclusive:
            if self._busy:
                return None, None
            self._shared = False
            return self._exclusive.popleft(), None
        patience = None
        for queue in sorted(filter(len, self._queues), key=lambda queue: queue.used_s):
            shared = queue.can_share()
            if self._busy and not (self._shared and shared):
                break  # what comes after it would make it wait for ever
            left = queue.waiting[0].asked + self._max_delay_s - time.perf_counter()
            if len(queue) < self.max_batch and queue.coming > 0 and left > 0 and not self.closed:
                patience = left if patience is None else min(patience, left)
            elif batch := queue.take(self.max_batch):
                self.clock_s, self._shared = queue.used_s, shared
                first = batch[0]
                if isinstance(first, _Whole):  # it goes alone
                    return first.work, None
                return partial(self._run, queue, [item for item in batch if isinstance(item, _Item)]), None
        return None, patience

    def _run(self, queue: ModelQueue, batch: list[_Item]) -> None:
        """What waited, through its engine. The outcome is in the futures."""
        images, asked = [item.image for item in batch], [item.asked for item in batch]
        try:
            runs = self.call(queue, batch[0].engine, images, asked, any(item.confidence for item in batch))
        except BaseException as error:
            for item in batch:
                item.future.set_exception(error)
        else:
            for item, run in zip(batch, runs, strict=True):
                item.future.set_result(run)

    def call(
        self, queue: ModelQueue, engine: Engine, images: list[np.ndarray], asked: list[float], confidence: bool
    ) -> list[Run]:
        """One call of an engine, in a worker's thread. `asked`: since when each image waits."""
        half = half_of(engine)
        if half and (self._busy > 1 or self.anything_waits()):
            engine = half
        start = time.perf_counter()
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        confidences: list[np.ndarray | None]
        if confidence:
            answer = engine.infer(batch)
            classes, confidences = answer.classes, list(answer.confidence)
        else:
            classes, confidences = class_maps(engine, batch), [None] * len(images)
        seconds = time.perf_counter() - start
        self._observe(queue.name, len(images))
        with self.lock:
            queue.used_s += seconds
        return [
            Run(own_classes, own_confidence, engine, (start - since) * 1000, seconds * 1000, len(images))
            for own_classes, own_confidence, since in zip(classes, confidences, asked, strict=True)
        ]


def _do(work: Callable[[], None], future: "Future[None]") -> None:
    try:
        work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
