"""A held-out set drawn from the labeled photos of a split, near-duplicate frames of a video kept on one side.

Two photos are near-duplicates where their thumbnails differ by less than NEAR_DUPLICATE; where groups of such photos
leave no set of the size, as with a fixed camera, by less than the limit that follows what the photos have in common;
where those leave none either, only copies stay together. A warning says so. Photos of unlabeled/ connect nothing,
since a dense video there would make one group of all; those that nearly repeat a photo of the set are left out of
training. As in `splits.extend`, the random order decides and gives way only for classes that the set would not show.
One group of each class stays in training: nothing could be learned of it otherwise.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.listing import Sample
from semseg_app.data.near_duplicates import (
    NEAR_DUPLICATE,
    copies,
    looks,
    near_duplicate_limit,
    near_duplicates,
    repeats,
)
from semseg_app.data.splits import class_presence, extend, parse_size
from semseg_app.errors import UserError


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
    warning: str | None
    """One line where photos of `val` resemble photos of training, or may do so."""


def draw_val(
    data: SegmentationData,
    size: str,
    split: str = "train",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    about: bool = False,
) -> HeldOut:
    """Draw `size` ("10", "1/8") photos with masks from `split`; the same for the same photos, masks and seed.

    With `about`, sets from half to twice that size do where they keep near-duplicates apart, and smaller ones where the
    classes leave no more. UserError where the dataset has a val split already, and where so many cannot be had without
    leaving training without a class.
    """
    name = f"val-seed{seed}" if seed else "val"
    if name in data.folders:
        raise UserError(f"{data.root}: already has the split {name!r}; leave --val out, or name another --seed")
    samples = data.samples(split)
    labeled = [index for index, sample in enumerate(samples) if sample.label is not None]
    parsed = parse_size(size)
    count = math.ceil(parsed * len(labeled)) if isinstance(parsed, Fraction) else parsed
    if count >= len(labeled):
        raise UserError(
            f"{data.root}: {split!r} has {len(labeled)} masks; a held-out set of {count} leaves none to train on"
        )
    look = looks([sample.image for sample in samples])
    presence = class_presence(data, [samples[index] for index in labeled], on_progress)
    groups, limit = copies(look.digests), 0.0
    chosen = _draw(groups, labeled, presence, seed, count)
    possible = len(chosen)
    if not possible or (possible < count and not about):
        advice = f"ask for {possible} or label more" if possible else "label more"
        raise UserError(
            f"{data.root}: copies of a photo stay together and a photo of each class stays in training, so "
            f"{count} cannot be held out of {len(labeled)}; {advice}"
        )
    known = look.thumbnails[np.isfinite(look.thumbnails).all(axis=1)]
    kept_apart = 0
    for careful in sorted({NEAR_DUPLICATE, near_duplicate_limit(known)}, reverse=True):
        alike = near_duplicates(look.thumbnails, careful)
        drawn = _draw(alike, labeled, presence, seed, possible, or_more=True)
        if len(drawn) == possible or (about and possible <= 2 * len(drawn) <= 4 * possible):
            groups, limit, chosen = alike, careful, drawn
            break
        kept_apart = max(kept_apart, len(drawn), key=lambda number: -abs(number - possible))
    val = {samples[index] for index in chosen}
    near = {groups[index] for index in chosen}
    left_out = [sample for sample, group in zip(samples, groups, strict=True) if group in near and sample.label is None]
    gone = val | set(left_out)
    training = [sample for sample in samples if sample not in gone]
    if split != "unlabeled" and "unlabeled" in data.folders:
        separate = data.folders["unlabeled"].samples()
        theirs = looks([sample.image for sample in separate])
        repeated = repeats(theirs.thumbnails, look.thumbnails[chosen], limit)
        held = {look.digests[index] for index in chosen}
        repeated |= [digest in held for digest in theirs.digests]
        left_out += [sample for sample, repeat in zip(separate, repeated, strict=True) if repeat]
        training += [sample for sample, repeat in zip(separate, repeated, strict=True) if not repeat]
    shown = presence[np.isin(labeled, chosen)].any(axis=0)
    return HeldOut(
        name,
        [sample for sample in samples if sample in val],
        training,
        left_out,
        [data.info.classes[index] for index in np.flatnonzero(presence.any(axis=0) & ~shown)],
        _warning(data, name, limit, kept_apart),
    )


def _warning(data: SegmentationData, name: str, limit: float, kept_apart: int) -> str | None:
    if limit == NEAR_DUPLICATE:
        return None
    if limit:
        return (
            f"warning: {data.root}: the photos are much alike, and only those within {limit:.1f} of 255 gray levels "
            f"stay together: right for a fixed camera; where they are one video, scores on {name} will be too high"
        )
    other = f"; a set of {kept_apart} would keep them apart" if kept_apart else ""
    return (
        f"warning: {data.root}: near-duplicate photos cannot be kept apart in a set of that size: photos of {name} "
        f"resemble training photos, and scores on them will be too high{other}"
    )


def _draw(
    groups: list[int], labeled: list[int], presence: np.ndarray, seed: int, count: int, or_more: bool = False
) -> list[int]:
    """Photos of whole groups, at most `count` of them; with `or_more`, the smallest group of more where that is nearer.

    Args:
        groups: of each photo of the split.
        labeled: those photos of the split that have a mask.
        presence: bool `[len(labeled), C]`.
    """
    members: dict[int, list[int]] = {}
    for place, index in enumerate(labeled):
        members.setdefault(groups[index], []).append(place)
    rows = list(members.values())
    shown = np.stack([presence[row].any(axis=0) for row in rows])
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    reserved = _reserved(shown, order)
    free = [group for group in order if group not in reserved]
    chosen = _choose(rows, shown, free, count)
    larger = [group for group in free if count < len(rows[group]) < len(labeled)] if or_more else []
    nearest = min(larger, key=lambda group: len(rows[group]), default=None)
    if nearest is not None and len(rows[nearest]) - count < count - sum(len(rows[group]) for group in chosen):
        chosen = [nearest]
    return [labeled[place] for group in chosen for place in rows[group]]


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
