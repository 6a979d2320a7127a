"""Which photos to label next: a model looks at those without a label, and a strategy chooses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from semseg_app.data.dataset import Sample, SegmentationData, read_image
from semseg_app.data.selection.candidates import candidates
from semseg_app.data.selection.strategies import DEFAULT, STRATEGIES, choose
from semseg_app.errors import UserError, did_you_mean
from semseg_app.inference.engines.base import Engine, class_maps
from semseg_app.inference.model_threads import ModelThreads
from semseg_app.inference.photo_pool import needs_model, photo_pool, shrunk
from semseg_app.plots.overlays import overlay
from semseg_app.plots.sheet import Entry


@dataclass(frozen=True)
class NextPhotos:
    """The choice, and how it came about."""

    samples: list[Sample]
    """The first one first."""
    uncertainty: list[float | None]
    """0 to 1, of each; None where the strategy asks for none."""
    considered: int
    """Photos without a label that could be read."""
    labeled: int
    near_duplicates: int
    """Of the considered ones, those that nearly repeat another one or a labeled photo."""
    unreadable: list[str]
    """A line for each photo that could not be read."""
    remarks: list[str]
    """What the engine does not give, and what was taken instead."""


def next_photos(
    data: SegmentationData,
    model: ModelThreads,
    count: int,
    strategy: str = DEFAULT,
    unlabeled: str | None = None,
    labeled: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> NextPhotos:
    """Choose `count` photos; the same for the same photos, model and seed, with any number of threads.

    Args:
        data: the dataset.
        model: what looks at the photos.
        count: how many.
        strategy: a key of STRATEGIES.
        unlabeled: a list or an expression of lists to choose from; None: training photos without a mask.
        labeled: photos that count as labeled; None: training photos with a mask.
        seed: of random draws and clusterings.
        on_progress: called with (photos seen, photos in all).

    Raises:
        UserError: an unknown strategy, one that this engine cannot serve, or fewer distinct photos than `count`.
    """
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise UserError(f"unknown strategy {strategy!r}; choose one of {known}{did_you_mean(strategy, STRATEGIES)}")
    free, known_photos = candidates(data, unlabeled, labeled)
    if count > len(free):
        raise UserError(f"--count {count}: only {len(free):,} photos are without a label")
    found = photo_pool(model if needs_model(strategy) else None, free, known_photos, strategy, on_progress)
    rows, near = choose(found.pool, strategy, count, seed)
    measured = STRATEGIES[strategy].measure is not None
    return NextPhotos(
        [found.samples[row] for row in rows],
        [round(float(found.pool.uncertainty[row]), 4) if measured else None for row in rows],
        len(found.pool.candidates),
        len(found.pool.labeled),
        near,
        found.unreadable,
        found.remarks,
    )


def sheet_entries(engine: Engine, choice: NextPhotos) -> Iterator[Entry]:
    """Each chosen photo beside what the model sees in it."""
    for number, (sample, value) in enumerate(zip(choice.samples, choice.uncertainty, strict=True), 1):
        photo = shrunk(read_image(sample.image))
        seen = overlay(photo, class_maps(engine, photo[None])[0], engine.labels.palette)
        lines = [] if value is None else [f"uncertainty {value:.3f}"]
        yield Entry(f"{number}. {sample.stem}", [("photo", photo), ("what the model sees", seen)], lines)
