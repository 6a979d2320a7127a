"""Nested random label splits: few labeled images, the rest unlabeled, and every smaller set inside every larger one.

`<name>-labeled.txt` and `<name>-unlabeled.txt` (the complement in the split) in splits/. A fraction takes
ceil(fraction * images), as the published splits of VOC (92/183/366/732), Cityscapes (186/372/744/1488) and COCO
(232/463/...) do.

Classes. A set keeps the longest beginning of the random order that can still be completed, within its size, by images
that show the missing classes (chosen greedily: most missing classes first, ties by the random order). So a draw that
shows every class already is left alone, an unlucky one changes only at its end, and a set too small for every class
holds as many as the greedy choice finds. Everything follows from (split, sizes, seed).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.labels import IGNORE


class LabelSplit(NamedTuple):
    """One labeled list and its complement."""

    name: str
    labeled: list[Sample]
    unlabeled: list[Sample]
    missing: list[str]
    """Classes that the split shows but no labeled image does."""


def parse_size(text: str) -> Fraction | int:
    """ "1/8", "0.1" -> a fraction of the images; "92" -> a count; "all" -> 1. UserError for anything else."""
    if text == "all":
        return Fraction(1)
    try:
        size = int(text) if re.fullmatch(r"\d+", text) else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"size {text!r}: write a fraction (1/8, 0.1), a number of images (92) or all") from None
    if size <= 0 or (isinstance(size, Fraction) and size >= 1):
        raise UserError(f"size {text!r}: a fraction lies between 0 and 1, a number of images is at least 1")
    return size


def split_name(size: str, split: str = "train", seed: int = 0) -> str:
    """ "1/8" -> "1_8"; another split than train goes before it, another seed than 0 behind it."""
    before = "" if split == "train" else f"{split}-"
    behind = f"-seed{seed}" if seed else ""
    return f"{before}{size.replace('/', '_')}{behind}"


def nested_splits(
    data: SegmentationData,
    sizes: Sequence[str],
    split: str = "train",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    among: Sequence[Sample] | None = None,
) -> list[LabelSplit]:
    """Draw label splits, smallest first.

    Args:
        data: the dataset; every mask of `split` is read once.
        sizes: fractions or counts ("1/16", "92"), in any order.
        split: which images; those without a mask can only be unlabeled.
        seed: of the random order.
        on_progress: called with (masks read, masks in all).
        among: draw from these photos of the split alone, such as those that were not held out.

    Raises:
        UserError: a size is no size, is larger than the split, or is given twice.
    """
    samples = data.samples(split) if among is None else list(among)
    labeled = [sample for sample in samples if sample.label is not None]
    if not labeled:
        raise UserError(f"{data.root}: no image of {split!r} has a label; there is nothing to split")
    parsed = {text: parse_size(text) for text in sizes}
    counts = {
        text: math.ceil(size * len(labeled)) if isinstance(size, Fraction) else size for text, size in parsed.items()
    }
    for text, count in counts.items():
        if count > len(labeled):
            raise UserError(f"size {text!r}: {split!r} has only {len(labeled)} labeled images")
    if len({*counts.values()}) != len(sizes):
        raise UserError(f"sizes {', '.join(sizes)}: two of them take the same number of images; leave one out")

    presence = class_presence(data, labeled, on_progress)
    order = np.random.default_rng(seed).permutation(len(labeled))
    exists = presence.any(axis=0)
    chosen: list[int] = []
    result = []
    for text, count in sorted(counts.items(), key=lambda item: item[1]):
        chosen = extend(chosen, count, order, presence)
        taken = {labeled[index] for index in chosen}
        absent = exists & ~presence[chosen].any(axis=0)
        result.append(
            LabelSplit(
                split_name(text, split, seed),
                [sample for sample in samples if sample in taken],
                [sample for sample in samples if sample not in taken],
                [data.info.classes[index] for index in np.flatnonzero(absent)],
            )
        )
    return result


def class_presence(
    data: SegmentationData, samples: Sequence[Sample], on_progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """bool [len(samples), C]: which classes the mask of each sample shows."""
    presence = np.zeros((len(samples), 256), bool)
    for index, label in enumerate(ordered_map(data.read_label, samples)):
        presence[index] = np.bincount(label.ravel(), minlength=256) > 0
        if on_progress:
            on_progress(index + 1, len(samples))
    assert not presence[:, data.num_classes : IGNORE].any()
    return presence[:, : data.num_classes]


def extend(chosen: list[int], count: int, order: np.ndarray, presence: np.ndarray) -> list[int]:
    """Grow a choice of images to `count`, by the rule at the top of this file.

    Args:
        chosen: indices that stay.
        count: how many there shall be.
        order: int [N], the random order.
        presence: bool [N, C].
    """
    exists = presence.any(axis=0)
    kept = set(chosen)
    fresh = [int(index) for index in order if int(index) not in kept]
    for random_count in range(count - len(chosen), -1, -1):
        base = [*chosen, *fresh[:random_count]]
        missing = np.logical_and(exists, ~np.any(presence[base], axis=0))
        picks = _cover(missing, fresh[random_count:], presence, count - len(base))
        if random_count == 0 or not (missing & ~presence[picks].any(axis=0)).any():
            base += picks
            taken = set(base)
            return base + [index for index in fresh if index not in taken][: count - len(base)]
    raise AssertionError("the loop returns at random_count == 0")


def _cover(missing: np.ndarray, candidates: list[int], presence: np.ndarray, limit: int) -> list[int]:
    """At most `limit` candidates that together show as many of the missing classes as a greedy choice finds."""
    columns = np.flatnonzero(missing)
    if not columns.size:
        return []
    shown = presence[np.ix_(np.array(candidates, int), columns)]
    useful = np.flatnonzero(shown.any(axis=1))
    shown = shown[useful]
    picks: list[int] = []
    lacking = np.ones(columns.size, bool)
    while lacking.any() and len(picks) < limit:
        gain = shown[:, lacking].sum(axis=1)
        if not gain.any():
            break
        best = int(gain.argmax())  # the first of equals, so the random order breaks ties
        picks.append(candidates[int(useful[best])])
        lacking &= ~shown[best]
    return picks


def write_splits(data: SegmentationData, splits: Sequence[LabelSplit], force: bool = False) -> list[Path]:
    """Write the lists to splits/, each whole or not at all; a list that already says the same stays.

    A list without a photo is not written: nothing can be learned from it, and a recipe that names it would fail.

    Raises:
        UserError: a list exists and says something else (unless `force`); then nothing is written.
    """
    lists = {
        f"{split.name}-{kind}": samples
        for split in splits
        for kind, samples in (("labeled", split.labeled), ("unlabeled", split.unlabeled))
        if samples or data.list_path(f"{split.name}-{kind}").is_file()
    }
    return write_lists(data, lists, force)


def write_lists(
    data: SegmentationData,
    lists: Mapping[str, Sequence[Sample]],
    force: bool = False,
    only_check: bool = False,
    other_name: str = "--seed names new lists",
) -> list[Path]:
    """`write_splits` for lists of any name; with `only_check` nothing is written, only refused.

    `other_name` ends the refusal: how the command line names other lists.
    """
    texts = {
        data.list_path(name): "".join(f"{entry(data, sample)}\n" for sample in samples)
        for name, samples in lists.items()
    }
    new = {path: text for path, text in texts.items() if not path.is_file() or path.read_text("utf-8") != text}
    existing = [path for path in new if path.exists()]
    if existing and not force:
        raise UserError(f"{existing[0]}: exists and lists other images; --force overwrites it, {other_name}")
    for path, text in () if only_check else new.items():
        with atomic_file(path) as part:
            part.write_text(text, encoding="utf-8")
    return list(texts)


def entry(data: SegmentationData, sample: Sample) -> str:
    """What a list must say to name this sample: its stem, or split/stem where the stem alone names several."""
    if data.by_entry.get(sample.stem) == [sample]:
        return sample.stem
    for name in (f"{split}/{sample.stem}" for split in data.folders):
        if data.by_entry.get(name) == [sample]:
            return name
    raise UserError(f"{sample.image}: another photo of its folder has the same name; rename one of the two")


class ListFaults(NamedTuple):
    """What is wrong with a labeled and an unlabeled list; all empty when they part a split exactly in two."""

    repeated: list[str]
    both: list[str]
    lost: list[str]
    strange: list[str]


def list_faults(labeled: Sequence[str], unlabeled: Sequence[str], whole: Sequence[str]) -> ListFaults:
    """Compare two lists with the split that they should part. Published lists have had each of these faults.

    Returns:
        Sorted names: `repeated` within one list, in `both` lists, `lost` (in the split, in neither list), `strange`
        (in a list, not in the split).
    """
    first, second, everything = set(labeled), set(unlabeled), set(whole)
    repeated = {name for names in (labeled, unlabeled) for name, times in Counter(names).items() if times > 1}
    groups = (repeated, first & second, everything - first - second, (first | second) - everything)
    return ListFaults(*(sorted(group) for group in groups))
