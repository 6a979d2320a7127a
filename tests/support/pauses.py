"""How long one thread keeps the others from running."""

import threading
import time
from collections.abc import Callable

import numpy as np


def longest_pause(work: Callable[[], object]) -> float:
    """The longest time that a thread waits for Python's lock while another one does `work`."""
    times, done = [time.perf_counter()], threading.Event()

    def tick() -> None:
        while not done.is_set():
            time.sleep(0.0005)
            times.append(time.perf_counter())

    ticking = threading.Thread(target=tick)
    ticking.start()
    work()
    done.set()
    ticking.join()
    return float(np.diff(times).max())
