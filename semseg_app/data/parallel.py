"""Map a function over many files with a few threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from semseg_app import machine

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    most = 4 * workers if ahead is None else ahead + 1
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
