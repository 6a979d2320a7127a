"""Which photos a first recipe learns from, and which it is scored on; lists that are missing are drawn."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.held_out import draw_val
from semseg_app.data.inspection import inspect_image
from semseg_app.data.listing import Sample
from semseg_app.data.parallel import ordered_map
from semseg_app.data.splits import nested_splits, write_lists, write_splits
from semseg_app.errors import UserError

HELD_OUT = 5
"""One in so many labeled photos is held out where the data has no validation photos."""
MOST_SIZES = 500
"""Photos whose size is read."""


class Lists(NamedTuple):
    """Names for the recipe, each with the reason."""

    labeled: str
    labeled_why: str
    unlabeled: str | None
    unlabeled_why: str
    val: str
    val_why: str
    warning: str | None = None
    """One line where scores on the held-out photos will mislead."""


class Facts(NamedTuple):
    """What was counted in the labeled and unlabeled photos."""

    labeled: int
    unlabeled: int
    size: tuple[int, int]
    """(width, height) of most photos."""
    size_share: float
    """The share of photos that have it."""
    smallest: tuple[int, int]
    """Smallest width and smallest height."""
    shares: dict[str, float]
    """Class -> share of the labeled pixels."""


def choose_lists(data: SegmentationData) -> Lists:
    """The lists of the data, with a held-out one drawn into splits/ where no validation photos exist.

    UserError where no photo has a mask, or too few have one to hold some out.
    """
    names = data.split_names()
    split = _training_split(data)
    if "val" in names and "val" not in data.folders and "all-labeled" in names:
        why = "drawn by an earlier init"  # or by `semseg data split --val`, which writes the same lists
        unlabeled = _unlabeled(data, "all-unlabeled")
        labeled = _without(data, "all-labeled", "val")
        return Lists(labeled, why, unlabeled, why if unlabeled else "every photo has a mask", "val", why)
    if (val := _validation(data)) is not None:
        unlabeled = "unlabeled" if "unlabeled" in names else None
        rest = "photos without a mask" if unlabeled else "no photos without a mask were found"
        labeled = _without(data, split, val)
        but = "" if labeled == split else f"; those of {val} are for scoring alone"
        why = f"the photos of {split!r} that have a mask{but}"
        return Lists(labeled, why, unlabeled, rest, val, "as the data has it")
    total = len(data.labeled_samples(split))
    held = draw_val(data, str(math.ceil(total / HELD_OUT)), split, about=True)
    (drawn,) = nested_splits(data, ["all"], split, 0, None, held.training)
    write_lists(data, {"val": held.val}, only_check=True)
    write_splits(data, [drawn])
    write_lists(data, {"val": held.val})
    why = f"{total} photos of {split!r} have a mask; {len(held.val)} of them are held out in splits/val.txt"
    unlabeled = _unlabeled(data, f"{drawn.name}-unlabeled")
    rest = "photos without a mask" if unlabeled else "every photo has a mask"
    alike = "they resemble training photos, so scores may be too high"
    apart = "near-duplicates of them are in no other list"
    drawn_why = f"drawn here: one labeled photo in {HELD_OUT}; {alike if held.warning else apart}"
    return Lists(f"{drawn.name}-labeled", why, unlabeled, rest, "val", drawn_why, held.warning)


def count(data: SegmentationData, lists: Lists) -> Facts:
    """Sizes of the photos and classes of the masks. Every mask is read once, and the photos up to MOST_SIZES."""
    labeled = data.labeled_samples(lists.labeled)
    unlabeled = data.samples(lists.unlabeled) if lists.unlabeled else []
    every = max(1, (len(labeled) + len(unlabeled)) // MOST_SIZES)
    looked_at: list[Sample] = [*labeled, *unlabeled][::every]
    facts = [fact for fact in ordered_map(inspect_image, [sample.image for sample in looked_at]) if fact.error is None]
    if not facts:
        raise UserError(f"{data.root}: no photo can be read; run `semseg check {data.root}`")
    sizes = Counter(fact.size for fact in facts)
    (size, often) = sizes.most_common(1)[0]
    pixels = np.zeros(256, np.int64)
    for label in ordered_map(data.read_label, labeled):
        pixels += np.bincount(label.ravel(), minlength=256)
    pixels = pixels[: data.num_classes]
    shares = pixels / max(int(pixels.sum()), 1)
    return Facts(
        len(labeled),
        len(unlabeled),
        size,
        often / len(facts),
        (min(width for width, _ in sizes), min(height for _, height in sizes)),
        dict(zip(data.info.classes, shares.tolist(), strict=True)),
    )


def _unlabeled(data: SegmentationData, drawn: str) -> str | None:
    """The drawn list, which holds those photos of unlabeled/ too that repeat none held out; None where it is empty."""
    return drawn if drawn in data.split_names() and data.samples(drawn) else None


def _training_split(data: SegmentationData) -> str:
    others = [name for name in data.folders if not name.lower().startswith(("val", "test", "unlabeled"))]
    for split in ["train", *others]:
        if split in data.folders and any(sample.label for sample in data.samples(split)):
            return split
    raise UserError(f"{data.root}: no training photo has a mask; put masks into labels/train, see docs/data.md")


def _validation(data: SegmentationData) -> str | None:
    """The split or list to score on: val, else the first folder whose name starts with val and that has masks."""
    if "val" in data.folders and not any(sample.label for sample in data.samples("val")):
        folder = data.folders["val"].images
        raise UserError(
            f"{folder}: no photo in it has a mask; add masks, or take the folder away to hold out training photos"
        )
    if "val" in data.split_names():
        return "val"
    others = [name for name in data.folders if name.lower().startswith("val")]
    return next((name for name in others if any(sample.label for sample in data.samples(name))), None)


def _without(data: SegmentationData, labeled: str, val: str) -> str:
    """The labeled list, less the photos that are in `val` too: `labeled` itself, or an expression."""
    held = {sample.image for sample in data.samples(val)}
    samples = data.labeled_samples(labeled)
    shared = sum(sample.image in held for sample in samples)
    if shared == len(samples):
        raise UserError(f"{data.root}: all photos of {labeled!r} are in {val!r}; nothing is left to learn from")
    return f"{labeled} - {val}" if shared else labeled
