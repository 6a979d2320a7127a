"""The facts by which photos are chosen for labeling, from one look of a model at each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from semseg_app.data.dataset import Sample, read_image
from semseg_app.data.parallel import ordered_map
from semseg_app.data.selection.distinct import SIDE
from semseg_app.data.selection.strategies import STRATEGIES, Measure, Pool
from semseg_app.data.selection.uncertainty import disagreement, entropy, margin, photo_uncertainty
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine, FeatureEngine, ProbabilityEngine, class_maps
from semseg_app.inference.model_threads import ModelThreads

LONGEST_SIDE = 1024
"""Longer photos are scored at this size, in bounded memory: what a model does not know shows there too."""
MOST_FEATURES = 256
"""Longer features are projected at random (Johnson and Lindenstrauss): distances stay, 50,000 photos take 51 MB."""


@dataclass(frozen=True)
class PhotoPool:
    """A pool, and the photos that its rows stand for."""

    pool: Pool
    samples: list[Sample]
    unreadable: list[str]
    """A line for each photo that could not be read; none of them is in the pool."""
    remarks: list[str]
    """What this engine does not give, and what was taken instead: sentences for people."""


@dataclass(frozen=True)
class _Facts:
    thumbnail: np.ndarray
    uncertainty: float = 0.0
    features: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def photo_pool(
    model: ModelThreads | None,
    candidates: Sequence[Sample],
    labeled: Sequence[Sample],
    strategy: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> PhotoPool:
    """Look at every photo once; of each, at most 1.3 KB stay in memory.

    Args:
        model: None is enough where `needs_model` says no.
        candidates: photos to choose from.
        labeled: photos that have their label already.
        strategy: a key of STRATEGIES.
        on_progress: called with (photos seen, photos in all).

    Raises:
        UserError: the engine cannot give what the strategy needs, or no candidate can be read.
    """
    samples = [*candidates, *labeled]
    remarks: list[str] = []
    answers: Iterator[_Facts | UserError]
    if model is None or not needs_model(strategy):
        answers = ordered_map(_thumbnail, samples)
    else:
        answers = model.map(_look(model.first, strategy, remarks), samples)
    readable: list[Sample] = []
    unreadable: list[str] = []
    thumbnails = np.empty((len(samples), SIDE * SIDE), np.uint8)
    uncertainty = np.zeros(len(samples), np.float32)
    features = np.empty((len(samples), 0), np.float32)
    projection: np.ndarray | None = None
    count = 0
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True), 1):
        if isinstance(answer, UserError):
            unreadable.append(str(answer))
        else:
            row, length = len(readable), len(answer.features)
            if not row:
                if length > MOST_FEATURES:
                    shape = (length, MOST_FEATURES)
                    projection = np.random.default_rng(0).standard_normal(shape, np.float32) / MOST_FEATURES**0.5
                features = np.empty((len(samples), min(length, MOST_FEATURES)), np.float32)
            thumbnails[row] = answer.thumbnail
            uncertainty[row] = answer.uncertainty
            features[row] = answer.features if projection is None else answer.features @ projection
            readable.append(sample)
            count += number <= len(candidates)
        if on_progress:
            on_progress(number, len(samples))
    if not count:
        raise UserError(f"{samples[0].image}: neither this photo nor another one of the list can be read")
    rows = np.arange(len(readable))
    pool = Pool(rows[:count], rows[count:], thumbnails[rows], uncertainty[rows], features[rows])
    return PhotoPool(pool, readable, unreadable, remarks)


def needs_model(strategy: str) -> bool:
    """Whether the strategy looks at the photos with a model."""
    row = STRATEGIES[strategy]
    return row.measure is not None or row.features


def _look(engine: Engine, strategy: str, remarks: list[str]) -> Callable[[Engine, Sample], _Facts | UserError]:
    """The function that looks at one photo; `remarks` gets what is taken instead of what the engine does not give."""
    row = STRATEGIES[strategy]
    measure: Measure | Literal["confidence"] | None = row.measure
    if row.features and not isinstance(engine, FeatureEngine):
        remarks.append(f"{engine.kind} gives no features of the encoder; photos are compared by their class areas")
    if measure in ("entropy", "margin") and not isinstance(engine, ProbabilityEngine):
        if strategy == measure:
            raise UserError(
                f"--strategy {strategy} needs the probabilities of all classes, which {engine.kind} does not give; "
                "give the model folder with --engine torch, or use --strategy disagreement"
            )
        measure = "confidence"
        remarks.append(f"{engine.kind} gives no probabilities but the largest; 1 minus it is the uncertainty")

    def look(engine: Engine, sample: Sample) -> _Facts | UserError:
        try:
            photo = read_image(sample.image)
        except UserError as error:
            return error
        image = shrunk(photo)[np.newaxis]
        features = np.zeros(0, np.float32)
        if row.features and isinstance(engine, FeatureEngine):
            probabilities, pooled = engine.probabilities_and_features(image)
            pixels = _measured(engine, image, probabilities[0], measure)
            features = pooled[0]
        elif isinstance(engine, ProbabilityEngine):
            probabilities = engine.probabilities(image)
            pixels = _measured(engine, image, probabilities[0], measure)
            if row.features:
                features = np.sqrt(probabilities[0].mean(axis=(1, 2)))
        else:
            answer = engine.infer(image)
            pixels = 1 - answer.confidence[0] / np.float32(255)
            if measure == "disagreement":
                mirrored = class_maps(engine, image[:, :, ::-1])[0, :, ::-1]
                pixels = (answer.classes[0] != mirrored).astype(np.float32)
            if row.features:
                # The square root makes distances between histograms Hellinger's: rare classes count.
                areas = np.bincount(answer.classes.ravel(), minlength=len(engine.labels.classes))
                features = np.sqrt(areas / answer.classes.size).astype(np.float32)
        return _Facts(_gray(photo), photo_uncertainty(pixels) if measure else 0.0, features)

    return look


def _measured(
    engine: ProbabilityEngine, image: np.ndarray, probabilities: np.ndarray, measure: str | None
) -> np.ndarray:
    """float32 `[H, W]`, 0 to 1."""
    if measure == "disagreement":
        return disagreement(probabilities, engine.probabilities(image[:, :, ::-1])[0, :, :, ::-1])
    return margin(probabilities) if measure == "margin" else entropy(probabilities)


def _thumbnail(sample: Sample) -> _Facts | UserError:
    try:
        return _Facts(_gray(read_image(sample.image)))
    except UserError as error:
        return error


def _gray(photo: np.ndarray) -> np.ndarray:
    """uint8 `[256]`: the thumbnail of `inspect_image`."""
    small = Image.fromarray(photo).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


def shrunk(photo: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` -> the same with sides of at most LONGEST_SIDE."""
    height, width = photo.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return photo
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
