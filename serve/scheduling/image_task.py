"""One image's way from bytes to its answer: decode, wait, infer, render, with as few changes of thread as it can.

Each change costs: another thread has to wake, and to get Python's lock. So no stage goes through the event loop: the
decoder's thread puts the image into the queue, and what the device's thread has done goes straight on to rendering. A
small image that comes while the device has nothing to do stays in one thread altogether, the device's. On a machine of
few cores every small image does, but that the event loop renders where it keeps up: so both cores have about the same
to do.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from semseg_app.inference.decode import Resize
from semseg_app.serve.scheduling.admission import Place, TooMuchAtOnce
from semseg_app.serve.scheduling.queue import Lane, Run

T = TypeVar("T")
Render = Callable[[np.ndarray, Run, float], T]
"""The image as decoded, what the engine said of it, and the milliseconds that decoding took -> the answer."""

SMALL_PIXELS = 1_000_000
SMALL_BYTES = 500_000
"""What may be decoded by the device's thread: a few milliseconds of work."""
PIXELS_IN_LOOP = 300_000
"""What the event loop may render: it answers nobody else meanwhile."""


class Pipeline(Generic[T]):
    """The work for one image. Once `done` is, `answer` has the answer; once `stop` was called no further stage begins.

    Nothing here refers back to itself when it is done: else decoded images would live until the garbage collector comes
    by, which counts objects and not their megabytes.

    Args:
        place: of its request.
        lane: of its model.
        submit: puts a decoded image of any size into the queue.
        note: is told of a run, for what it took.
        data: the encoded image.
        render: makes the answer.
        resize: what size the image gets.
        quick: whether `render` takes no longer than it takes to hand it to another thread.
    """

    def __init__(
        self,
        place: Place,
        lane: Lane,
        submit: Callable[[np.ndarray], "Future[Run]"],
        note: Callable[[Run], None],
        data: bytes,
        render: Render[T],
        resize: Resize | None,
        quick: bool,
    ):
        self.done: Future[None] = Future()
        self._place = place
        self._lane = lane
        self._submit = submit
        self._note = note
        self._data = data
        self._render = render
        self._resize = resize
        self._quick = quick
        self._answer: Callable[[], T] | None = None
        self._started = 0.0
        self._whole: Future[Run] | None = None
        self._running: Future[Run] | None = None

    def start(self) -> None:
        """In the event loop; returns at once."""
        self._started = time.perf_counter()
        if self._quick and len(self._data) <= SMALL_BYTES:
            self._whole = self._lane.submit_whole(self._do_whole)
        if self._whole is None:
            self._start_decoder()

    def _start_decoder(self) -> None:
        self._lane.expect(1)
        self._place.workshop.decoders.submit(self._decode)

    def _do_whole(self) -> None:
        """In the device's thread."""
        waited_s = time.perf_counter() - self._started
        try:
            if self.done.cancelled():
                return
            image, decode_ms = self._place.decode_here(self._data, self._resize, SMALL_PIXELS)
            if image.shape[0] * image.shape[1] > SMALL_PIXELS:  # resized to more
                self._follow(image, decode_ms, self._submit(image))
            else:
                run = self._lane.run_now(image, waited_s)
                self._note(run)
                workshop = self._place.workshop
                small = run.prediction.classes.size <= PIXELS_IN_LOOP
                if self._lane.few_cores and small and not workshop.loop_is_behind():
                    self._deliver(partial(self._rendered, image, decode_ms, run))
                    workshop.loop_is_behind = self._waits
                else:
                    self._finish(image, decode_ms, run)
        except TooMuchAtOnce:
            self._start_decoder()
        except BaseException as error:
            self._fail(error)

    def _decode(self) -> None:
        """In a decoder's thread."""
        try:
            if self.done.cancelled():
                return
            image, decode_ms = self._place.decode_here(self._data, self._resize)
            self._follow(image, decode_ms, self._submit(image))
        except BaseException as error:
            self._fail(error)
        finally:
            self._lane.expect(-1)

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
            if self._quick and run.batch == 1 and self._lane.nobody_waits():
                self._finish(image, decode_ms, run)
            else:
                self._place.workshop.encoders.submit(self._finish, image, decode_ms, run)
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
            self._deliver(lambda: answer)

    def _rendered(self, image: np.ndarray, decode_ms: float, run: Run) -> T:
        with self._place.timed("encode"):
            return self._render(image, run, decode_ms)

    def _deliver(self, answer: Callable[[], T]) -> None:
        self._answer = answer
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(None)
        else:
            self._answer = None

    def _fail(self, error: BaseException) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)

    def _waits(self) -> bool:
        """Whether its answer, with the image that it is made of, has not been fetched yet."""
        return self._answer is not None

    def answer(self) -> T:
        """In the event loop, once: what came out, rendered here where that was left to be done."""
        assert self._answer is not None
        return self._answer()

    def stop(self) -> None:
        """Nobody waits for `done` any more, or `answer` was called."""
        self.done.cancel()
        self._answer = None
        for future in (self._whole, self._running):
            if future is not None:
                future.cancel()
