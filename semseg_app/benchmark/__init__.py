"""Speed, memory and accuracy of engines, measured so that the comparison is fair.

What is compared takes turns: for each size, batch size and concurrency, every variant has a process of its own, and in
each round every process has one short turn while the others sleep. A machine that is slow for a minute is slow for all
of them, and speed-ups are ratios within a round. What is timed is `Engine.infer`: uint8 photos in, class maps out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from semseg_app.benchmark.cell import Cell, CellError, Identity, count_classes, identify
from semseg_app.benchmark.group import Row, measure
from semseg_app.benchmark.variants import Variant
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.inference.tiling import batches
from semseg_app.metrics.scores import Scorer

SCORED_AT_ONCE = 8
"""Images from one update of the progress bar to the next."""


@dataclass(frozen=True)
class Plan:
    """What is measured of every variant: each combination of size, batch size and concurrency."""

    sizes: Sequence[tuple[int, int]]
    """Width, height."""
    batch_sizes: Sequence[int]
    concurrency: Sequence[int]
    """Numbers of engines that work side by side."""
    threads: int
    """CPU threads for all engines of a variant together."""
    rounds: int
    """Turns that each variant has."""


@dataclass(frozen=True)
class Scoring:
    """Labeled samples for the mIoU."""

    data: SegmentationData
    samples: Sequence[Sample]


def benchmark(
    variants: Sequence[Variant],
    plan: Plan,
    scoring: Scoring | None = None,
    update: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Measure all variants. Rows come group by group (size, batch size, concurrency), in each the variants in order.

    A variant that opens and then fails in one group has a row with `error`; the others go on.

    Args:
        update: is told how many steps of how many are done.

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
        with _opened(variant, plan.threads) as cell:
            identities.append(_checked(variant, cell.call(identify)))
            step()
            miou = None
            if scoring is not None:
                scorer = Scorer(scoring.data.num_classes)
                for chunk in chunks:
                    scorer.confusion.counts += _counts(cell, variant, scoring.data, chunk)
                    step()
                miou = scorer.result().values["miou"]
            mious.append(miou)
    names = _names(variants, identities)
    rows: list[Row] = []
    for (width, height), batch, clients in groups:
        group = [
            Row(
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


def _opened(variant: Variant, threads: int) -> Cell:
    try:
        return Cell(variant.open, threads)
    except CellError as error:
        raise UserError(f"{variant.path}: {variant.kind} does not open it: {error}") from error


def _checked(variant: Variant, identity: Identity) -> Identity:
    if variant.precision not in (None, identity.precision):
        raise UserError(f"{variant.path}: is in {identity.precision}, not in {variant.precision}; export it again")
    return identity


def _counts(cell: Cell, variant: Variant, data: SegmentationData, samples: Sequence[Sample]) -> np.ndarray:
    try:
        return cell.call(count_classes, data, samples)
    except CellError as error:
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
