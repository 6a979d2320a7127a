"""Which photos are nearly the same, such as neighboring frames of a video: their 16x16 gray thumbnails tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semseg_app.data.inspection import inspect_image
from semseg_app.data.parallel import ordered_map

NEAR_DUPLICATE = 6.0
"""Gray levels of 255. Neighboring frames of a video differ by less, other photos of one street by far more."""
RELATIVE_LIMIT = 0.25
"""Of the median difference between two photos of the set. A fixed camera sees almost the same at all times; there,
all photos differ by less than NEAR_DUPLICATE."""
SAVED_TWICE = 0.5
"""Gray levels: the same photo, compressed again. Less is a near-duplicate in every set."""
PAIRS = 10_000
"""Drawn for the median."""


class Looks(NamedTuple):
    """What is compared of N photos."""

    thumbnails: np.ndarray
    """float32 `[N, 256]`, gray levels; infinite where a photo cannot be read."""
    digests: list[bytes]
    """Equal for files of equal bytes; empty where there is no file."""


def looks(photos: Sequence[Path]) -> Looks:
    """Read each photo once."""
    thumbnails, digests = np.full((len(photos), 256), np.inf, np.float32), []
    for index, facts in enumerate(ordered_map(inspect_image, photos)):
        digests.append(facts.digest)
        if facts.error is None:
            thumbnails[index] = np.frombuffer(facts.thumbnail, np.uint8)
    return Looks(thumbnails, digests)


def near_duplicate_limit(thumbnails: np.ndarray) -> float:
    """The mean difference of two thumbnails, finite numbers `[N, 256]`, below which their photos are near-duplicates.

    It follows what the photos have in common, and is NEAR_DUPLICATE at most.
    """
    if len(thumbnails) < 2:
        return NEAR_DUPLICATE
    random = np.random.default_rng(0)
    one = random.integers(0, len(thumbnails), PAIRS)
    other = (one + random.integers(1, len(thumbnails), PAIRS)) % len(thumbnails)
    differences = np.abs(thumbnails[one].astype(np.int16) - thumbnails[other]).mean(axis=1)
    return max(min(NEAR_DUPLICATE, RELATIVE_LIMIT * float(np.median(differences))), SAVED_TWICE)


def near_duplicates(thumbnails: np.ndarray, limit: float = NEAR_DUPLICATE) -> list[int]:
    """For each photo the number of its group: the index of the group's first photo. An unreadable one is alone.

    Two photos are near-duplicates where their thumbnails, float32 `[N, 256]`, differ by less than `limit` on average;
    groups are the connected ones.
    """
    groups = list(range(len(thumbnails)))

    def first(index: int) -> int:
        while groups[index] != index:
            groups[index] = groups[groups[index]]
            index = groups[index]
        return index

    # The means of two thumbnails differ by no more than the thumbnails do: only neighbors in brightness are compared.
    means = thumbnails.mean(axis=1)
    order = np.argsort(means, kind="stable")
    order = order[np.isfinite(means[order])]
    ends = np.searchsorted(means[order], means[order] + limit).tolist()
    for position, (index, end) in enumerate(zip(order, ends, strict=True)):
        others = order[position + 1 : end]
        differences = np.abs(thumbnails[others] - thumbnails[index]).mean(axis=1)
        for other in others[differences < limit]:
            low, high = sorted((first(int(index)), first(int(other))))
            groups[high] = low
    return [first(index) for index in range(len(thumbnails))]


def copies(digests: Sequence[bytes]) -> list[int]:
    """As `near_duplicates`, for files of equal bytes alone."""
    firsts: dict[bytes, int] = {}
    return [firsts.setdefault(digest, index) if digest else index for index, digest in enumerate(digests)]


def repeats(thumbnails: np.ndarray, others: np.ndarray, limit: float) -> np.ndarray:
    """bool `[N]`: whether a thumbnail of `[N, 256]` is a near-duplicate of one of `[M, 256]`."""
    near = np.zeros(len(thumbnails), bool)
    for other in others:
        if np.isfinite(other).all():
            near |= np.abs(thumbnails - other).mean(axis=1) < limit
    return near
