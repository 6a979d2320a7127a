"""One image from its bytes to its answer: decode, wait, infer, render, with as few changes of thread as possible.

Each change costs: another thread has to wake, and to get Python's lock. So no stage goes through the event loop: the
decoder's thread puts the image into the queue, and what the device's thread has done goes straight on to rendering. A
small image that comes while the device has nothing to do stays in one thread altogether, the device's. On a machine of
few cores every small image does.
"""

import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.decode import Resize
from semseg_app.serve.scheduling.admission import Overloaded, RequestSlot
from semseg_app.serve.scheduling.decoding import Source, decode
from semseg_app.serve.scheduling.queue import Run
from semseg_app.serve.scheduling.runtime import ModelRuntime
from semseg_app.serve.scheduling.segmentation import Segmentation

T = TypeVar("T")
Render = Callable[[Segmentation], T]
"""Makes the answer, in whichever thread has the image."""

SMALL_PIXELS = 1_000_000
SMALL_BYTES = 500_000
"""What may be decoded by the device's thread: a few milliseconds of work."""


class _TooLargeHere(Exception):
    """The image has more pixels than the thread that was to decode it has time for."""


class ImageTask(Generic[T]):
    """The work for one image. Once `done` is, `answer` has the answer; once `stop` was called no further stage begins.

    When it is done nothing here refers back to itself: decoded images would live until the garbage collector comes by,
    which counts objects and not their megabytes.

    Args:
        runtime: of the model.
        slot: of the request; it is told the size of the image.
        source: the image.
        render: makes the answer.
        resize: what size the image gets.
        quick: whether `render` takes no longer than it takes to hand it to another thread.
        confidence: whether `render` reads it.
    """

    def __init__(
        self,
        runtime: ModelRuntime,
        slot: RequestSlot,
        source: Source,
        render: Render[T],
        resize: Resize | None,
        quick: bool,
        confidence: bool,
    ):
        self.done: Future[None] = Future()
        self.began = time.perf_counter()
        self._runtime = runtime
        self._slot = slot
        self._source = source
        self._render = render
        self._resize = resize
        self._quick = quick
        self._confidence = confidence
        self._answer: tuple[T] | None = None
        self._whole: Future[Run] | None = None
        self._running: Future[Run] | None = None
        self._reserved = 0
        self._stopped = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, in the event loop; returns at once."""
        if isinstance(self._source, np.ndarray):
            self._decode()  # it is decoded already
            return
        if self._quick and len(self._source) <= SMALL_BYTES:
            self._whole = self._runtime.queue.submit_whole(self._do_whole)
        if self._whole is None:
            self._start_decoder()

    def _start_decoder(self) -> None:
        self._runtime.queue.expect(1)
        self._runtime.workers.decoders.submit(self._decode_expected)

    def _do_whole(self) -> None:
        """In the device's thread."""
        waited_s = time.perf_counter() - self.began
        runtime = self._runtime
        try:
            if self.done.cancelled():
                return
            image, decode_ms = self._decoded(SMALL_PIXELS)
            resized_to_more = image.shape[0] * image.shape[1] > SMALL_PIXELS
            if resized_to_more or not runtime.at_once(image):  # a panorama has few pixels and a long side
                self._follow(image, decode_ms, runtime.submit(image, self._confidence))
            else:
                self._finish(image, decode_ms, runtime.queue.run_now(image, waited_s, self._confidence))
        except _TooLargeHere:
            self._start_decoder()
        except BaseException as error:
            self._fail(error)

    def _decode_expected(self) -> None:
        """In a decoder's thread."""
        try:
            self._decode()
        finally:
            self._runtime.queue.expect(-1)

    def _decode(self) -> None:
        try:
            if self.done.cancelled():
                return
            image, decode_ms = self._decoded()
            self._follow(image, decode_ms, self._runtime.submit(image, self._confidence))
        except BaseException as error:
            self._fail(error)

    def _decoded(self, most: int | None = None) -> tuple[np.ndarray, float]:
        """The image and the milliseconds of decoding. With `most`, _TooLargeHere above so many pixels."""

        def reserve(pixels: int, memory: int) -> None:
            if most is not None and pixels > most:
                raise _TooLargeHere
            self._slot.expect(*self._runtime.pixels_to_run(self._answered_pixels(pixels)))
            # An array is in memory already, and the device's thread must not wait.
            self._reserve(memory, wait=most is None and not isinstance(self._source, np.ndarray))

        runtime = self._runtime
        start = time.perf_counter()
        with runtime.metrics.stage(runtime.name, "decode"):
            image = decode(self._source, runtime.workers.max_pixels, reserve, self._resize)
        return image, (time.perf_counter() - start) * 1000

    def _answered_pixels(self, pixels: int) -> int:
        """How many of an image's pixels the engine gets, by the size that it would have as a square."""
        if self._resize is None:
            return pixels
        side = max(1, round(pixels**0.5))
        height, width = self._resize(side, side)
        return height * width

    def _reserve(self, pixels: int, wait: bool) -> None:
        memory = self._runtime.workers.memory
        memory.reserve(pixels, wait)
        with self._lock:
            if self._stopped:  # its client went away meanwhile
                memory.release(pixels)
            else:
                self._reserved = pixels

    def _follow(self, image: np.ndarray, decode_ms: float, running: "Future[Run]") -> None:
        self._running = running
        if self.done.cancelled():
            running.cancel()
        running.add_done_callback(partial(self._ran, image, decode_ms))

    def _ran(self, image: np.ndarray, decode_ms: float, ran: "Future[Run]") -> None:
        """In the device's thread, or in one that puts tiles together."""
        self._running = None
        if ran.cancelled():
            return
        try:
            run = ran.result()
            if self._quick and run.batch == 1 and self._runtime.queue.nothing_waits():
                self._finish(image, decode_ms, run)
            else:
                self._runtime.workers.encoders.submit(self._finish, image, decode_ms, run)
        except BaseException as error:
            self._fail(error)

    def _finish(self, image: np.ndarray, decode_ms: float, run: Run) -> None:
        try:
            if self.done.cancelled():
                return
            answer = self._rendered(image, decode_ms, run)
        except BaseException as error:
            self._fail(error)
        else:
            self._deliver(answer)

    def _rendered(self, image: np.ndarray, decode_ms: float, run: Run) -> T:
        runtime = self._runtime
        runtime.count(run)
        with runtime.metrics.stage(runtime.name, "encode"):
            segmented = Segmentation(image, run.classes, run.confidence, decode_ms, run.infer_ms, run.engine)
            return self._render(segmented)

    def _deliver(self, answer: T) -> None:
        self._answer = (answer,)
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(None)
        else:
            self._answer = None

    def _fail(self, error: BaseException) -> None:
        """A traceback holds the frames, a frame this task, and the task the error: the image in them would stay."""
        if isinstance(error, UserError | Overloaded):
            error.__traceback__ = error.__context__ = error.__cause__ = None  # its message says all
        else:
            traceback.clear_frames(error.__traceback__)
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)

    def answer(self) -> T:
        """What came out, once `done` is."""
        assert self._answer is not None
        return self._answer[0]

    def stop(self) -> None:
        """End: `answer` was called, or the request has ended without it. Call it in the event loop."""
        if not self.done.cancel() and self.done.exception() is not None:
            # The error has the frame that waited for it, and that frame this task.
            self.done = Future()
            self.done.cancel()
        self._answer = None
        for future in (self._whole, self._running):
            if future is not None:
                future.cancel()
        with self._lock:
            self._stopped = True
            reserved, self._reserved = self._reserved, 0
        if reserved:
            self._runtime.workers.memory.release(reserved)
