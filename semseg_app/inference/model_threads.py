"""One model on many photos: each thread has a copy that computes with a single thread.

So the answer about a photo is the same for any number of threads, bit by bit: a network that spreads one photo over
threads adds up in another order with another number of them.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from semseg_app import machine
from semseg_app.data.parallel import ordered_map
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.open import open_engine

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
"""By default; each holds a copy of the model."""


class ModelThreads:
    """Copies of one model.

    Args:
        engines: of one model, each computing with one thread; on a GPU a single one.
    """

    def __init__(self, engines: list[Engine]):
        self.first = engines[0]
        self._count = len(engines)
        self._idle: SimpleQueue[Engine] = SimpleQueue()
        for engine in engines:
            self._idle.put(engine)

    def map(self, function: Callable[[Engine, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function(engine, item) for every item, in order; only a few results wait at any time."""

        def run(item: Item) -> Result:
            engine = self._idle.get()
            try:
                return function(engine, item)
            finally:
                self._idle.put(engine)

        return ordered_map(run, items, self._count)


def open_threads(
    model: Path,
    kind: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    prepare: Callable[[Engine], Engine] = lambda engine: engine,
) -> ModelThreads:
    """Open `model` once per thread, by default one thread per core that the process may use (8 at most).

    "auto" is torch for a model folder where torch is installed: exported graphs give neither probabilities nor
    features. `prepare` is applied to each copy.
    """
    if kind == "auto" and model.is_dir() and find_spec("torch"):
        kind = "torch"
    engines = [prepare(open_engine(model, kind, device, threads=1))]
    if engines[0].device == "cpu":
        count = threads or min(machine.threads(), MOST_THREADS)
        engines += [prepare(open_engine(model, kind, device, threads=1)) for _ in range(count - 1)]
    return ModelThreads(engines)
