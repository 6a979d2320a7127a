"""A process that holds what is measured: its memory is counted apart from all else, and a crash ends nothing else.

The process opens its engines, then runs the functions that `call` sends it. Several clients are several engines side by
side, each in a thread with its part of the cores, because an engine takes one call at a time.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from semseg_app import machine
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine

Answer = TypeVar("Answer")


class WorkerError(Exception):
    """A measurement that could not be made, in one line."""


class Client(NamedTuple):
    """An engine, and the thread that all its calls come from."""

    engine: Engine
    thread: ThreadPoolExecutor


class Identity(NamedTuple):
    """What an engine says about itself."""

    name: str
    kind: str
    device: str
    precision: str


class TurnTimes(NamedTuple):
    """The calls of one turn."""

    milliseconds: list[float]
    """Duration of each call, of all clients together."""
    seconds: float
    """From the start of the first call to the end of the last."""


class Worker:
    """A worker process. As a context manager, it ends with the block.

    Args:
        open_engine: open_engine(threads=...) -> Engine; it must pickle.
        threads: CPU threads for all clients together, divided equally; each client has at least one.
        clients: engines side by side.

    Raises:
        UserError: what opening the engine raises.
        WorkerError: when it raises anything else, or the process dies.
    """

    def __init__(self, open_engine: Callable[..., Engine], threads: int, clients: int = 1):
        # spawn: a fork would begin with this process's memory, and CUDA does not survive it.
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, open_engine, threads, clients), daemon=True)
        self._process.start()
        far_end.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """The result of function(clients, *arguments) in the process.

        Raises:
            UserError: what the function raises of that kind.
            WorkerError: when the function raises anything else, or the process dies.
        """
        try:
            self._pipe.send((function, arguments))
        except OSError:
            raise WorkerError(self._death()) from None
        answer: Answer = self._receive()
        return answer

    def close(self) -> None:
        """End the process, in the midst of a call if need be."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(self._death()) from None
        if kind == "answer":
            return content
        raise UserError(content) if kind == "user error" else WorkerError(content)

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return "its process was killed; most likely memory ran out"
        return f"its process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def identify(clients: Sequence[Client]) -> Identity:
    """What the engine says about itself."""
    engine = clients[0].engine
    return Identity(engine.name, engine.kind, engine.device, engine.precision)


def take_turn(clients: Sequence[Client], shape: tuple[int, int, int], seconds: float) -> TurnTimes:
    """Let every client call without a pause, for `seconds` and at least once, on images [batch, height, width].

    One call before that is not counted: it brings code and weights back into the caches, while the threads of the
    worker that had its turn before, which wait for work in a loop, go to sleep.
    """
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    _together([client.thread.submit(client.engine.infer, images) for client in clients])
    turns = _together([client.thread.submit(_calls, client.engine, images, seconds) for client in clients])
    moments = [moment for turn in turns for moment in turn]
    milliseconds = [1000 * (end - start) for start, end in moments]
    return TurnTimes(milliseconds, max(end for _, end in moments) - min(start for start, _ in moments))


def peak_memory(clients: Sequence[Client]) -> int:
    """Peak memory of the process in bytes: Python, libraries, weights and what a call needs."""
    return machine.peak_memory()


def count_classes(clients: Sequence[Client], data: SegmentationData, samples: Sequence[Sample]) -> np.ndarray:
    """Confusion matrix int64 [C, C] of some samples, exactly as `semseg evaluate` counts them."""
    from semseg_app.inference.evaluate import evaluate

    engine, thread = clients[0]
    batch_size = 1 if engine.device == "cpu" else 4
    scored = thread.submit(evaluate, engine, data, samples, batch_size=batch_size, metrics=("miou",)).result()
    return scored.scores.confusion


def _calls(engine: Engine, images: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    moments: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while not moments or moments[-1][1] < end:
        start = time.perf_counter()
        engine.infer(images)
        moments.append((start, time.perf_counter()))
    return moments


def _together(futures: list[Any]) -> list[Any]:
    wait(futures)
    return [future.result() for future in futures]


def _open_clients(clients: list[Client], open_engine: Callable[..., Engine], threads: int, count: int) -> None:
    for _ in range(count):
        # An engine is opened by the thread that calls it: torch's number of threads belongs to a thread.
        thread = ThreadPoolExecutor(1)
        clients.append(Client(thread.submit(open_engine, threads=max(1, threads // count)).result(), thread))


def _serve(pipe: Connection, open_engine: Callable[..., Engine], threads: int, count: int) -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the process that started this one
    os.dup2(2, 1)  # stdout holds nothing but the command's answer, whatever a library prints
    clients: list[Client] = []
    function: Callable[..., Any] = _open_clients
    arguments: tuple[Any, ...] = (open_engine, threads, count)
    while True:
        try:
            answer = ("answer", function(clients, *arguments))
        except UserError as error:
            answer = ("user error", str(error))
        except Exception as error:  # engines' errors share no base class; each means that this cannot be measured
            answer = ("error", " ".join(f"{type(error).__name__}: {error}".split()))
        pipe.send(answer)
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
