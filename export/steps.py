"""What an export is doing, as log lines: it takes minutes, and a silent program looks like one that hangs.

The command line shows them on stderr. A caller from Python sees them when it lets INFO of "semseg_app.export" through.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("semseg_app.export")
REMINDER_SECONDS = 30.0
"""A step that lasts longer says so again and again."""


@contextmanager
def step(description: str, reminder_s: float = REMINDER_SECONDS) -> Iterator[None]:
    """Log what begins, and every `reminder_s` seconds that it still runs."""
    LOG.info("%s", description)
    start, done = time.monotonic(), threading.Event()

    def remind() -> None:
        while not done.wait(reminder_s):
            LOG.info("%s: still running after %.0f s", description, time.monotonic() - start)

    thread = threading.Thread(target=remind, name="export progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
