"""Speed, memory and accuracy of engines, measured so that the comparison is fair.

Variants take turns: for each size, batch size and concurrency, every variant has a worker process, and in each round
every worker has one short turn while the others sleep. A machine that is slow for a minute is slow for all of them, and
speed-ups are ratios within a round. The time of `Engine.infer` is measured: from uint8 photos to class maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from semseg_app.benchmark.group import BenchmarkRow, measure
from semseg_app.benchmark.variants import Variant
from semseg_app.benchmark.worker import Identity, Worker, WorkerError, count_classes, identify
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.inference.tiling import batches
from semseg_app.metrics.scores import Scorer

SCORED_AT_ONCE = 8
"""Images between two updates of the progress bar."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """Every variant is measured at each combination of size, batch size and concurrency."""

    sizes: Sequence[tuple[int, int]]
    """Width, height."""
    batch_sizes: Sequence[int]
    concurrency: Sequence[int]
    """Numbers of clients, each with an engine, that work side by side."""
    threads: int
    """CPU threads for all engines of a variant together."""
    rounds: int
    """Turns of each variant."""


@dataclass(frozen=True)
class Scoring:
    """Labeled samples for the mIoU."""

    data: SegmentationData
    samples: Sequence[Sample]


def benchmark(
    variants: Sequence[Variant],
    plan: BenchmarkPlan,
    scoring: Scoring | None = None,
    update: Callable[[int, int], None] = lambda done, total: None,
) -> list[BenchmarkRow]:
    """Measure all variants; the rows are grouped by size, batch size and concurrency, in each group in the given order.

    A variant that opens and then fails in one group has a row with `error`; the others go on.

    Args:
        update: called with the steps done and all steps.

    Raises:
        UserError: when a variant cannot be opened, is not in the precision that its file's name says, or does not
            segment the data's classes; no time has been measured then.
    """
    chunks = list(batches(iter(scoring.samples), SCORED_AT_ONCE)) if scoring else []
    groups = list(product(plan.sizes, plan.batch_sizes, plan.concurrency))
    total = len(variants) * (1 + len(chunks) + len(groups) * plan.rounds)
    steps = iter(range(1, total + 1))

    def step() -> None:
        update(next(steps), total)

    identities: list[Identity] = []
    mious: list[float | None] = []
    for variant in variants:
        with _opened(variant, plan.threads) as worker:
            identities.append(_checked(variant, worker.call(identify)))
            step()
            miou = None
            if scoring is not None:
                scorer = Scorer(scoring.data.num_classes)
                for chunk in chunks:
                    scorer.confusion.counts += _counts(worker, variant, scoring.data, chunk)
                    step()
                miou = scorer.result().values["miou"]
            mious.append(miou)
    names = _names(variants, identities)
    rows: list[BenchmarkRow] = []
    for (width, height), batch, clients in groups:
        group = [
            BenchmarkRow(
                model=name,
                engine=identity.kind,
                device=identity.device,
                precision=identity.precision,
                verdict=variant.verdict,
                width=width,
                height=height,
                batch=batch,
                concurrency=clients,
                threads=max(1, plan.threads // clients),
                miou=miou,
            )
            for name, variant, identity, miou in zip(names, variants, identities, mious, strict=True)
        ]
        measure(group, variants, plan.threads, plan.rounds, step)
        rows += group
    return rows


def _opened(variant: Variant, threads: int) -> Worker:
    try:
        return Worker(variant.open, threads)
    except WorkerError as error:
        raise UserError(f"{variant.path}: {variant.kind} does not open it: {error}") from error


def _checked(variant: Variant, identity: Identity) -> Identity:
    if variant.precision not in (None, identity.precision):
        raise UserError(f"{variant.path}: is in {identity.precision}, not in {variant.precision}; export it again")
    return identity


def _counts(worker: Worker, variant: Variant, data: SegmentationData, samples: Sequence[Sample]) -> np.ndarray:
    try:
        return worker.call(count_classes, data, samples)
    except WorkerError as error:
        raise UserError(f"{variant.path}: {variant.kind} does not segment {samples[0].image}: {error}") from error


def _names(variants: Sequence[Variant], identities: Sequence[Identity]) -> list[str]:
    """The models' own names; the paths of those that share a name."""
    paths: dict[str, set[str]] = {}
    for variant, identity in zip(variants, identities, strict=True):
        paths.setdefault(identity.name, set()).add(variant.model)
    return [
        identity.name if len(paths[identity.name]) == 1 else variant.model
        for variant, identity in zip(variants, identities, strict=True)
    ]
