"""A held-out set drawn from the labeled photos of a split, near-duplicate frames of a video kept on one side.

Two photos are near-duplicates where their 16x16 gray thumbnails differ by less than NEAR_DUPLICATE on average; groups
are the connected ones. Photos of unlabeled/ connect nothing, since a dense video there would make one group of all;
those that nearly repeat a photo of the set are left out of training. As in `splits.extend`, the random order decides
and gives way only for classes that the set would not show. One group of each class stays in training: nothing could be
learned of it otherwise.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.inspection import inspect_image
from semseg_app.data.listing import Sample
from semseg_app.data.parallel import ordered_map
from semseg_app.data.splits import class_presence, extend, parse_size
from semseg_app.errors import UserError

NEAR_DUPLICATE = 6.0
"""Gray levels of 255. Neighboring frames of a video differ by less, other photos of one street by far more."""


class HeldOut(NamedTuple):
    """The parts of a split."""

    name: str
    """Name of the list that `val` becomes."""
    val: list[Sample]
    training: list[Sample]
    """All other photos of the split, with a mask or without, then those of unlabeled/; but for `left_out`."""
    left_out: list[Sample]
    """Photos without a mask that nearly repeat one of `val`: to train on them would leak."""
    missing: list[str]
    """Classes that the masks show and `val` does not."""


def draw_val(
    data: SegmentationData,
    size: str,
    split: str = "train",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Draw `size` ("10", "1/8") photos with masks from `split`; the same for the same photos, masks and seed.

    UserError where the dataset has a val split already, and where so many cannot be had without parting near-duplicates
    or leaving training without masks.
    """
    name = f"val-seed{seed}" if seed else "val"
    if name in data.folders:
        raise UserError(f"{data.root}: already has the split {name!r}; leave --val out, or name another --seed")
    samples = data.samples(split)
    labeled = [sample for sample in samples if sample.label is not None]
    parsed = parse_size(size)
    count = math.ceil(parsed * len(labeled)) if isinstance(parsed, Fraction) else parsed
    if count >= len(labeled):
        raise UserError(
            f"{data.root}: {split!r} has {len(labeled)} masks; a held-out set of {count} leaves none to train on"
        )
    groups = near_duplicates([sample.image for sample in samples])
    members: dict[int, list[int]] = {}
    for index, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        if sample.label is not None:
            members.setdefault(group, []).append(index)
    place = {sample: index for index, sample in enumerate(labeled)}
    presence = class_presence(data, labeled, on_progress)
    rows = list(members.values())
    shown = np.stack([presence[[place[samples[index]] for index in row]].any(axis=0) for row in rows])
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    reserved = _reserved(shown, order)
    chosen = _choose(rows, shown, [group for group in order if group not in reserved], count)
    drawn = sum(len(rows[group]) for group in chosen)
    if drawn < count:
        raise UserError(
            f"{data.root}: near-duplicate photos stay together and a photo of each class stays in training, so "
            f"{count} cannot be held out of {len(labeled)}; ask for {drawn} or label more"
        )
    val = {samples[index] for group in chosen for index in rows[group]}
    near = {groups[rows[group][0]] for group in chosen}
    left_out = [sample for sample, group in zip(samples, groups, strict=True) if group in near and sample.label is None]
    gone = val | set(left_out)
    training = [sample for sample in samples if sample not in gone]
    if split != "unlabeled" and "unlabeled" in data.folders:
        separate = data.samples("unlabeled")
        repeats = _near([sample.image for sample in separate], [sample.image for sample in val])
        left_out += [sample for sample, repeat in zip(separate, repeats, strict=True) if repeat]
        training += [sample for sample, repeat in zip(separate, repeats, strict=True) if not repeat]
    absent = presence.any(axis=0) & ~shown[chosen].any(axis=0)
    return HeldOut(
        name,
        [sample for sample in samples if sample in val],
        training,
        left_out,
        [data.info.classes[index] for index in np.flatnonzero(absent)],
    )


def _reserved(shown: np.ndarray, order: list[int]) -> set[int]:
    """Groups that stay in training, so that each class is there: the last of the random order, rare classes first."""
    reserved: set[int] = set()
    for column in np.argsort(shown.sum(axis=0), kind="stable").tolist():
        showing = [group for group in order if shown[group, column]]
        if showing and not reserved & set(showing):
            reserved.add(showing[-1])
    return reserved


def _choose(rows: list[list[int]], shown: np.ndarray, candidates: list[int], count: int) -> list[int]:
    """Groups of at most `count` photos in all, filled up with the next of the random order that still fit."""
    order = np.array([group for group in candidates if len(rows[group]) <= count], int)
    chosen: list[int] = []
    if not order.size:
        return chosen
    free = np.zeros_like(shown)
    free[order] = shown[order]  # the others show nothing, so that no class calls for them
    for number in range(min(count, len(order)), 0, -1):
        chosen = extend([], number, order, free)
        if sum(len(rows[group]) for group in chosen) <= count:
            break
    size = sum(len(rows[group]) for group in chosen)
    for group in order.tolist():
        if group not in chosen and size + len(rows[group]) <= count:
            chosen.append(group)
            size += len(rows[group])
    return chosen


def near_duplicates(photos: Sequence[Path]) -> list[int]:
    """For each photo the number of its group: the index of the group's first photo. An unreadable one is alone."""
    thumbnails = _thumbnails(photos)
    groups = list(range(len(photos)))

    def first(index: int) -> int:
        while groups[index] != index:
            groups[index] = groups[groups[index]]
            index = groups[index]
        return index

    # The means of two thumbnails differ by no more than the thumbnails do: only neighbors in brightness are compared.
    means = thumbnails.mean(axis=1)
    order = np.argsort(means, kind="stable")
    order = order[np.isfinite(means[order])]
    for position, index in enumerate(order):
        end = int(np.searchsorted(means[order], means[index] + NEAR_DUPLICATE))
        others = order[position + 1 : end]
        differences = np.abs(thumbnails[others] - thumbnails[index]).mean(axis=1)
        for other in others[differences < NEAR_DUPLICATE]:
            low, high = sorted((first(int(index)), first(int(other))))
            groups[high] = low
    return [first(index) for index in range(len(photos))]


def _near(photos: Sequence[Path], others: Sequence[Path]) -> list[bool]:
    """For each photo, whether it is a near-duplicate of one of the others."""
    thumbnails = _thumbnails(photos)
    near = np.zeros(len(photos), bool)
    for other in _thumbnails(others):
        if np.isfinite(other).all():
            near |= np.abs(thumbnails - other).mean(axis=1) < NEAR_DUPLICATE
    return [bool(value) for value in near]


def _thumbnails(photos: Sequence[Path]) -> np.ndarray:
    """float32 `[N, 256]`, gray levels; infinite where a photo cannot be read."""
    thumbnails = np.full((len(photos), 256), np.inf, np.float32)
    for index, facts in enumerate(ordered_map(inspect_image, photos)):
        if facts.error is None:
            thumbnails[index] = np.frombuffer(facts.thumbnail, np.uint8)
    return thumbnails
