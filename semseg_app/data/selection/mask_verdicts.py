"""What looks wrong with a mask, in words, from facts on it and on all the others.

A model is no proof, and a weak one errs in the same way in every photo. So a mask is measured against the others: a
class that the model takes for another one everywhere says nothing about a single mask.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from semseg_app.data.findings import Finding
from semseg_app.data.selection.mask_comparison import Comparison, Confusion, Object, Shift
from semseg_app.labels import IGNORE

LESS_ERROR = 0.92
"""A mask is called shifted where moving it leaves at most this fraction of the disagreement. On CamVid, with a model of
32 % mIoU, right masks reached 0.97 at best, masks moved by 19 to 48 pixels 0.61 to 0.90."""
CLEAR_SHIFT = 0.02
"""And where the fraction of pixels that agree rises by as much."""
MOST_AGREE = 0.5
"""And where most pixels agree then: a mask of swapped classes agrees with little, and moving it finds some more."""
MORE_CONFUSED = 0.5
"""Fraction of a class's pixels by which a mask must be worse than the others."""
SMALLEST_CLASS = 0.005
"""Fraction of the photo: a class of fewer pixels is easily missed by the model."""
KNOWN_CLASS = 0.5
"""Recall from which a model knows a class: of others it cannot say that they are missing, or are not there."""
USUAL_CONFUSION = 0.25
"""Fraction of a class's pixels that the model takes for a certain other class; from there on a region of the one that
it sees as the other is no news."""
FAR_OUTLINE = 1.5
"""Times the median outline distance, and 5 robust standard deviations above it, make an outline sloppy."""
FEWEST = 8
"""Masks from which on their outlines have a usual distance."""


class Compared(NamedTuple):
    """A mask, by name, with its facts."""

    file: str
    """Relative to the dataset's root."""
    comparison: Comparison
    height: int
    """Of the pictures that were compared, pixels; width likewise."""
    width: int
    factor: float
    """Pixels of the photo for each pixel of them."""


def verdicts(masks: Sequence[Compared], matrix: np.ndarray, classes: Sequence[str]) -> list[list[Finding]]:
    """Notes on each mask, none for most.

    Args:
        masks: all masks that were compared.
        matrix: int64 `[C, C]`, the sum of what `compare` returned.
        classes: names.
    """
    distances = np.array([mask.comparison.outline for mask in masks])
    distances = distances[np.isfinite(distances)]
    far = float("inf")
    if len(distances) >= FEWEST:
        usual = float(np.median(distances))
        far = max(FAR_OUTLINE * usual, usual + 5 * 1.4826 * float(np.median(np.abs(distances - usual))))
    found = []
    for mask in masks:
        notes = _class_notes(mask, matrix, classes)
        swapped = [note for note in notes if note[0] == "mask-classes-swapped"]
        # A moved mask has wrong classes and regions all over, which its shift explains.
        notes = swapped or list(_shift_note(mask)) or notes + _object_notes(mask, matrix, classes)
        if not notes and mask.comparison.outline > far:
            pixels = min(mask.height, mask.width) * mask.factor
            own, half = mask.comparison.outline * pixels, usual * pixels
            message = (
                f"outlines lie {own:.0f} px from the model's on average, in half of the masks at most {half:.0f} px"
            )
            notes = [("mask-sloppy-outline", message)]
        found.append([Finding(kind, message, mask.file) for kind, message in notes])
    return found


def _shift_note(mask: Compared) -> Iterator[tuple[str, str]]:
    shift = mask.comparison.shift
    if shift is None or not _is_clear(shift):
        return
    moves = [
        f"{round(abs(pixels) * mask.factor)} px {one if pixels < 0 else other}"
        for pixels, one, other in ((shift.right, "to the left", "to the right"), (shift.down, "up", "down"))
        if pixels
    ]
    yield (
        "mask-shifted",
        f"moved {' and '.join(moves)} it would agree with the model in {shift.after:.0%} of the pixels, now in "
        f"{shift.before:.0%}",
    )


def _is_clear(shift: Shift) -> bool:
    return (
        shift.after >= MOST_AGREE
        and shift.after - shift.before >= CLEAR_SHIFT
        and 1 - shift.after <= LESS_ERROR * (1 - shift.before)
    )


def _class_notes(mask: Compared, matrix: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Two classes swapped, or one class under the name of another."""
    unusual: dict[int, tuple[Confusion, float]] = {}
    for confusion in mask.comparison.confusions:
        if confusion.of >= SMALLEST_CLASS * mask.height * mask.width:
            usual = _usual(confusion, matrix)
            if usual is not None and confusion.pixels / confusion.of - usual >= MORE_CONFUSED:
                unusual[confusion.label] = confusion, usual
    notes = []
    for index, (confusion, usual) in unusual.items():
        name, seen = classes[index], classes[confusion.predicted]
        partner = unusual.get(confusion.predicted)
        if partner is not None and partner[0].predicted == index:
            if index < confusion.predicted:
                message = f"{name} and {seen} look swapped: the model sees each where the mask says the other"
                notes.append(("mask-classes-swapped", message))
            continue
        share = confusion.pixels / confusion.of
        message = f"says {name} where the model sees {seen} ({share:.0%} of its {name}; {usual:.0%} in the other masks)"
        notes.append(("mask-other-class", message))
    return notes


def _usual(confusion: Confusion, matrix: np.ndarray) -> float | None:
    """How often the same happens in the other masks; None where there the model does not know the class either."""
    row = matrix[confusion.label]
    others = int(row.sum()) - confusion.of
    # At most these of the photo's own pixels were right, so the others' recall is at least this.
    right = int(row[confusion.label]) - (confusion.of - confusion.pixels)
    if others <= 0 or right < KNOWN_CLASS * others:
        return None
    return (int(row[confusion.predicted]) - confusion.pixels) / others


def _object_notes(mask: Compared, matrix: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str]]:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    notes = []
    for thing in mask.comparison.objects:
        drawn, seen = (thing.other, thing.class_index) if thing.missing else (thing.class_index, thing.other)
        if drawn == IGNORE or shares[thing.class_index, thing.class_index] < KNOWN_CLASS:
            continue
        if shares[drawn, seen] >= USUAL_CONFUSION:
            continue
        name, other = classes[thing.class_index], classes[thing.other]
        where = _where(thing, mask.factor)
        if thing.missing:
            notes.append(("mask-object-missing", f"the model sees {name} {where}; the mask says {other}"))
        else:
            notes.append(("mask-object-unseen", f"the mask says {name} {where}; the model sees {other}"))
    return notes


def _where(thing: Object, factor: float) -> str:
    left, top, width, height = (round(side * factor) for side in (thing.left, thing.top, thing.width, thing.height))
    return f"in x {left} to {left + width}, y {top} to {top + height}"
