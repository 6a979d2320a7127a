"""What long work shows on stderr: a bar in a terminal, a line every ten seconds elsewhere. stdout holds the answer."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

SECONDS = 10.0
"""Between two lines where stderr is no terminal."""

Item = TypeVar("Item")
Update = Callable[[float, float | None], None]
"""Told how much is done, and of how much (None = not known). Work on a large item may count as a fraction."""


@contextmanager
def progress_bar(description: str) -> Iterator[Update]:
    """Yield `update(done, total)`. The bar of a terminal goes away at the end; work of a few seconds has no lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(description)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def tracked(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """The items, with their progress; `total` is how many they are."""
    with progress_bar(description) as update:
        for done, item in enumerate(items):
            update(done, total)
            yield item
        update(total, total)


def _lines(description: str) -> Update:
    told = time.monotonic()

    def update(done: float, total: float | None) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < SECONDS:
            return
        told = now
        of_total = f" of {total:g} ({done / total:.0%})" if total else ""
        print(f"{description}: {int(done)}{of_total}", file=sys.stderr, flush=True)

    return update
