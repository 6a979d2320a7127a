"""Variants measured against each other at one size, batch size and concurrency: they take turns, round by round."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from semseg_app import machine
from semseg_app.benchmark.variants import Variant
from semseg_app.benchmark.worker import TurnTimes, Worker, WorkerError, peak_memory, take_turn
from semseg_app.errors import UserError

WARM_UP_TURNS = 2
"""Not counted, of two calls each: the first allocates memory and, on a GPU, picks kernels."""
TURN_SECONDS = 0.2
"""Long compared with the cost of switching, short compared with changes of the machine's speed. At least one call."""
P95_CALLS, P99_CALLS = 20, 100
"""Calls below which the percentile would only repeat the slowest one."""


@dataclass
class BenchmarkRow:
    """One variant at one size, batch size and concurrency. None = not measured."""

    model: str
    engine: str
    device: str
    precision: str
    verdict: str | None
    """As `Variant.verdict`: "passed", "rejected", "other weights" or None."""
    width: int
    height: int
    batch: int
    concurrency: int
    threads: int
    """CPU threads of each engine."""
    miou: float | None
    """From 0 to 1, at the images' own size."""
    calls: int = 0
    p50_ms: float | None = None
    """Median of one call, that is of `batch` images; likewise the other percentiles."""
    p95_ms: float | None = None
    p99_ms: float | None = None
    images_per_second: float | None = None
    """Throughput of all clients together, median over the rounds."""
    speedup: float | None = None
    """images_per_second over those of the first variant, median over the rounds of the ratio within a round."""
    peak_memory_mb: float | None = None
    """Peak memory of the process in 1e6 bytes, Python and libraries included."""
    gpu_memory_mb: float | None = None
    """1e6 bytes that the process took of the GPU's memory; None on a CPU."""
    rounds: list[dict[str, float]] = field(default_factory=list)
    """Results of each round: median_ms, images_per_second."""
    error: str | None = None


def measure(
    group: Sequence[BenchmarkRow], variants: Sequence[Variant], threads: int, rounds: int, step: Callable[[], None]
) -> None:
    """Fill in the rows, one per variant, all of one size, batch size and concurrency; `step` is called at each turn."""
    shape = (group[0].batch, group[0].height, group[0].width)
    turns: list[list[TurnTimes]] = [[] for _ in group]
    workers: dict[int, Worker] = {}
    with ExitStack() as stack:
        for index, (row, variant) in enumerate(zip(group, variants, strict=True)):
            before = _gpu_memory(row)
            try:
                worker = stack.enter_context(Worker(variant.open, threads, row.concurrency))
                for _ in range(WARM_UP_TURNS):
                    worker.call(take_turn, shape, 0)
            except (WorkerError, UserError) as error:  # more engines at once, or larger images, than there is room for
                row.error = str(error)
                continue
            workers[index] = worker
            if before is not None:
                row.gpu_memory_mb = (_gpu_memory(row) or 0) - before
        for first in range(rounds):
            # Each variant begins a round in its turn, so that what the one before left in the caches evens out.
            for index in ((first + place) % len(group) for place in range(len(group))):
                if group[index].error is None:
                    try:
                        turns[index].append(workers[index].call(take_turn, shape, TURN_SECONDS))
                    except WorkerError as error:
                        group[index].error = str(error)
                step()
        for index, worker in workers.items():
            if group[index].error is None:
                group[index].peak_memory_mb = worker.call(peak_memory) / 1e6
    for row, taken in zip(group, turns, strict=True):
        if row.error is None:
            _summarize(row, taken)
    for row in group:
        if row.error is None and group[0].error is None:
            pairs = zip(_rates(row), _rates(group[0]), strict=True)
            row.speedup = statistics.median(rate / of_first for rate, of_first in pairs)


def _summarize(row: BenchmarkRow, turns: Sequence[TurnTimes]) -> None:
    milliseconds = np.concatenate([turn.milliseconds for turn in turns])
    row.calls = len(milliseconds)
    row.p50_ms = float(np.median(milliseconds))
    if row.calls >= P95_CALLS:
        row.p95_ms = float(np.percentile(milliseconds, 95))
    if row.calls >= P99_CALLS:
        row.p99_ms = float(np.percentile(milliseconds, 99))
    row.rounds = [
        {
            "median_ms": statistics.median(turn.milliseconds),
            "images_per_second": row.batch * len(turn.milliseconds) / turn.seconds,
        }
        for turn in turns
    ]
    row.images_per_second = statistics.median(_rates(row))


def _rates(row: BenchmarkRow) -> list[float]:
    return [each["images_per_second"] for each in row.rounds]


def _gpu_memory(row: BenchmarkRow) -> float | None:
    """1e6 bytes in use on all GPUs, by any process; None for a row that runs on a CPU."""
    return sum(gpu.used_mib for gpu in machine.gpus()) * 2**20 / 1e6 if row.device.startswith("cuda") else None
