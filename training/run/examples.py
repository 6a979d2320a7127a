"""The photos that a report shows of an evaluation: the same few each time, and the worst and best predicted ones."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

WATCHED = 4
"""Photos that are shown of every evaluation."""
EXTREMES = 4
"""Worst photos, and as many best ones."""
SIDE = 320
"""Longest side of what is kept of a photo, in pixels."""


class Example(NamedTuple):
    """A photo and what was predicted of it, made small by leaving pixels out."""

    number: int
    """Of the sample in its list."""
    miou: float
    """Over the classes that occur in this photo's label or prediction; NaN where nothing is labeled."""
    image: np.ndarray
    """uint8 RGB `[h, w, 3]`."""
    label: np.ndarray
    """uint8 `[h, w]`, 255 = ignore."""
    predicted: np.ndarray
    """uint8 `[h, w]`."""


@dataclass
class Examples:
    """Collects while an evaluation goes on. With several processes, those of the photos that this process scores.

    Args:
        count: samples of the validation list.
    """

    count: int
    watched: list[Example] = field(default_factory=list)
    worst: list[Example] = field(default_factory=list)
    best: list[Example] = field(default_factory=list)

    def add(self, index: int, miou: float, image: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> None:
        """Look at one photo: image uint8 `[3, H, W]`, label and prediction uint8 `[H, W]`."""
        watched = index in watched_indices(self.count)
        low = len(self.worst) < EXTREMES or miou < self.worst[-1].miou
        high = len(self.best) < EXTREMES or miou > self.best[-1].miou
        scored = not np.isnan(miou)
        if not (watched or (scored and (low or high))):
            return
        every = -(-max(label.shape) // SIDE)
        small = image[:, ::every, ::every].transpose(1, 2, 0).copy()
        example = Example(index, miou, small, label[::every, ::every].copy(), predicted[::every, ::every].copy())
        if watched:
            self.watched.append(example)
        if scored and low:
            self.worst = sorted([*self.worst, example], key=lambda kept: kept.miou)[:EXTREMES]
        if scored and high:
            self.best = sorted([*self.best, example], key=lambda kept: -kept.miou)[:EXTREMES]

    def extremes(self) -> tuple[list[Example], list[Example]]:
        """The worst and the best, no photo in both: where few were scored, the better half are the best."""
        worst = {example.number: example for example in self.worst}
        everything = sorted(
            (worst | {example.number: example for example in self.best}).values(), key=lambda it: it.miou
        )
        half = min(EXTREMES, (len(everything) + 1) // 2)
        return everything[:half], everything[half:][::-1][:EXTREMES]


def watched_indices(count: int) -> set[int]:
    """Evenly spread over a list of `count` samples; all of them where they are few."""
    return {position * count // WATCHED for position in range(WATCHED)} if count >= WATCHED else {*range(count)}
