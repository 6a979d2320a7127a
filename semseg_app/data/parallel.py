"""Map a function over many files with a few threads or processes, in order and in bounded memory."""

import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

from semseg_app import machine
from semseg_app.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 32
"""Items that a process is given at a time: handing over takes 0.1 ms."""


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """`map`, on so many threads, by default as many as cores (8 at most); only a few results wait at any time.

    Pillow and NumPy release the interpreter lock while they decode and count, so threads are enough.

    Args:
        function: called in a thread.
        items: taken in the caller's thread.
        workers: threads.
        ahead: results that are made or wait while the caller works on one; None = four per thread, less one.
    """
    workers = workers or min(8, machine.cores())
    with ThreadPoolExecutor(workers) as threads:
        yield from _in_order(threads, function, items, 4 * workers if ahead is None else ahead + 1)


def ordered_map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """`ordered_map` in processes: for work whose time is Python's own, such as opening thousands of tiny images.

    A program that calls this must be one that can be imported without running (`if __name__ == "__main__"`). `function`
    and what it takes and gives are pickled, CHUNK items at a time. UserError when the system ends a process.
    """
    remaining = iter(items)
    chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(processes, context, _begin) as pool:
        try:
            for results in _in_order(pool, partial(_each, function), chunks, 4 * processes):
                yield from results
        except BrokenProcessPool:
            raise UserError(
                "the system ended a process that read files, probably for lack of memory; close other programs"
            ) from None


def _in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    """Results in order, of which at most so many are made or wait."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _begin() -> None:
    """At the start of a process: Ctrl-C is its parent's affair, and so are Pillow's warnings."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]
