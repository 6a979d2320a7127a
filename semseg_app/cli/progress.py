"""What a verb shows of long work, on stderr, so that stdout holds nothing but the answer."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `update(done, total)`. The bar goes away at the end; where stderr is no terminal, no bar is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def show_steps(room: str) -> None:
    """Print the steps that a room logs ("semseg_app.export"), a line each, also where stderr is no terminal."""
    log = logging.getLogger(room)
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
