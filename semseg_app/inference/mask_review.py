"""A model looks at labeled photos: which masks disagree with it most, and what looks wrong with them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from semseg_app.data.check_splits import relative
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.findings import Finding
from semseg_app.data.selection.mask_comparison import Comparison, compare
from semseg_app.data.selection.mask_verdicts import Compared, verdicts
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine, ProbabilityEngine, class_maps
from semseg_app.inference.evaluate import check_classes
from semseg_app.inference.model_threads import ModelThreads
from semseg_app.inference.photo_pool import shrunk
from semseg_app.labels import LabelSpace
from semseg_app.plots.overlays import overlay
from semseg_app.plots.sheet import Entry

CLEAR = ("mask-shifted", "mask-classes-swapped")


class ReviewedMask(NamedTuple):
    """One mask in the ranking."""

    sample: Sample
    file: str
    """Relative to the dataset's root."""
    comparison: Comparison
    notes: list[Finding]


@dataclass(frozen=True)
class MaskReview:
    """All masks, the most suspicious one first."""

    masks: list[ReviewedMask]
    skipped: int
    """Pairs that cannot be read or differ in size: the doctor names them."""
    remarks: list[str]
    """What the engine does not give, and what was taken instead."""

    def to_json(self) -> list[dict[str, Any]]:
        """For --json: the ranking."""
        return [
            {
                "file": mask.file,
                "score": round(mask.comparison.score, 4),
                "agreement": round(mask.comparison.agreement, 4),
                "notes": [note.message for note in mask.notes],
            }
            for mask in self.masks
        ]


def review_masks(
    model: ModelThreads,
    data: SegmentationData,
    samples: Sequence[Sample],
    on_progress: Callable[[int, int], None] | None = None,
) -> MaskReview:
    """Compare every mask with the model; the same for any number of threads. Memory holds a few facts on each.

    Args:
        model: in the classes of the data.
        data: the dataset.
        samples: photos with masks.
        on_progress: called with (masks compared, masks in all).

    Raises:
        UserError: the model has other classes, or no mask can be compared.
    """
    check_classes(model.first.labels.classes, data.info.classes)
    remarks = []
    if not isinstance(model.first, ProbabilityEngine):
        remarks.append(
            f"{model.first.kind} gives no probabilities but the largest; the other classes share the rest equally"
        )

    def look(engine: Engine, sample: Sample) -> tuple[Compared, np.ndarray] | None:
        try:
            photo, label = data.read_pair(sample)
        except UserError:
            return None
        image = shrunk(photo)
        height, width = image.shape[:2]
        comparison, matrix = compare(_resized(label, height, width), class_probabilities(engine, image))
        assert sample.label is not None
        return Compared(relative(data, sample.label), comparison, height, width, photo.shape[0] / height), matrix

    total = np.zeros((data.num_classes, data.num_classes), np.int64)
    compared: list[tuple[Sample, Compared]] = []
    for number, (sample, answer) in enumerate(zip(samples, model.map(look, samples), strict=True), 1):
        if answer is not None:
            total += answer[1]
            if np.isfinite(answer[0].comparison.score):
                compared.append((sample, answer[0]))
        if on_progress:
            on_progress(number, len(samples))
    if not compared:
        raise UserError(f"{data.root}: no mask can be compared with the model; `semseg check` names what is wrong")
    notes = verdicts([mask for _, mask in compared], total, data.info.classes)
    masks = [
        ReviewedMask(sample, mask.file, mask.comparison, said)
        for (sample, mask), said in zip(compared, notes, strict=True)
    ]
    return MaskReview(sorted(masks, key=_rank), len(samples) - len(compared), remarks)


def _rank(mask: ReviewedMask) -> tuple[bool, float]:
    """Moved masks and swapped classes first: that all of a mask fits better is a stronger sign than a low score."""
    return not any(note.kind in CLEAR for note in mask.notes), mask.comparison.score


def class_probabilities(engine: Engine, image: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` -> float32 `[C, H, W]`. What an engine says of the first class alone is completed evenly."""
    if isinstance(engine, ProbabilityEngine):
        probabilities: np.ndarray = engine.probabilities(image[np.newaxis])[0]
        return probabilities
    answer = engine.infer(image[np.newaxis])
    classes, confidence = answer.classes[0], answer.confidence[0] / np.float32(255)
    count = len(engine.labels.classes)
    spread = np.repeat(((1 - confidence) / max(count - 1, 1))[np.newaxis], count, axis=0)
    np.put_along_axis(spread, classes[np.newaxis].astype(np.int64), confidence[np.newaxis], axis=0)
    return spread


def review_entries(
    engine: Engine, data: SegmentationData, labels: LabelSpace, review: MaskReview, worst: int
) -> Iterator[Entry]:
    """The `worst` masks of the ranking, then as many others as have notes: photo, mask, and what the model sees."""
    last = [mask for mask in review.masks[worst:] if mask.notes][:worst]
    for number, mask in enumerate([*review.masks[:worst], *last], 1):
        photo, label = data.read_pair(mask.sample)
        image = shrunk(photo)
        label = _resized(label, *image.shape[:2])
        seen = class_maps(engine, image[np.newaxis])[0]
        pictures = [
            ("photo", image),
            ("mask", overlay(image, label, [*labels.palette, *[(0, 0, 0)] * (256 - len(labels.palette))])),
            ("what the model sees", overlay(image, seen, labels.palette)),
        ]
        score = f"score {mask.comparison.score:.3f}; {mask.comparison.agreement:.0%} of the pixels agree"
        yield Entry(f"{number}. {mask.file}", pictures, [score, *(note.message for note in mask.notes)])


def _resized(label: np.ndarray, height: int, width: int) -> np.ndarray:
    if label.shape == (height, width):
        return label
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
