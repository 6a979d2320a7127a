"""What spoils a training before its first step: masks that cannot be meant. The doctor says more; this is quick."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semseg_app.data.check_masks import MaskStudy
from semseg_app.data.check_splits import relative
from semseg_app.data.dataset import SegmentationData
from semseg_app.data.findings import TITLES, Finding
from semseg_app.data.inspection import inspect_mask
from semseg_app.data.listing import Sample, evenly_spaced
from semseg_app.data.mask_pixels import UnsupportedMask, unreadable
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.files import sha256

MOST_MASKS = 256
"""Masks that are looked at, evenly spaced over the list: seconds at most, whatever the size of the data."""
MOST_NAMES = 12
REFUSED = ("unreadable-mask", "color-mask", "value-outside", "gray-palette-mask")
"""Kinds of findings on a single mask under which its numbers are not the classes."""


def refuse_or_warn(
    data: SegmentationData, labeled: Sequence[Sample], warn: Callable[[str], None], val: Sequence[Sample] = ()
) -> None:
    """Look at the masks of `labeled` and `val` as the doctor does.

    UserError where nothing right can be learned or measured: a dataset of one class, a mask whose numbers are not
    classes, masks without a labeled pixel, masks that all show one and the same class. `warn` gets one line at most:
    classes that no labeled mask shows, photos that share a mask, masks that contradict each other.
    """
    doctor = f"semseg check {data.root}"
    if data.num_classes == 1:
        raise UserError(
            f"{data.root}: one class ({data.info.classes[0]}) leaves nothing to tell apart; name the rest too, for "
            "example as background, in dataset.yaml"
        )
    study = MaskStudy(data)
    looked_at = evenly_spaced(labeled, MOST_MASKS)
    if not looked_at:
        raise UserError(f"{data.root}: the labeled list or split names no photo; {', '.join(data.split_names())} exist")
    pixels, odd = _look(study, looked_at, doctor)
    held = sorted(study.values)
    scored, more = _look(study, evenly_spaced(val, MOST_MASKS), doctor)
    odd += more
    if val and not scored.any():
        raise UserError(
            f"{data.root}: every pixel of the masks of data.val is ignored, which leaves nothing to score; "
            f"name another split, or write data.val=null (`{doctor}` says more)"
        )
    few = study.few_classes()
    present = [name for name, count in zip(data.info.classes, pixels, strict=True) if count]
    absent = [name for name in data.info.classes if name not in present]
    which = (
        f"all {len(labeled)} masks" if len(looked_at) == len(labeled) else f"{len(looked_at)} of {len(labeled)} masks"
    )
    if len(present) < 2:
        values = f"they hold the values {', '.join(map(str, held[:8]))}" if held else "they are masks of colors"
        what = f"every pixel of {which} is ignored"
        if present:
            what = f"{which} show {present[0]} alone and no pixel of {_names(absent)}"
        fix = few or f"run `{doctor} --fix-map FILE`"
        raise UserError(f"{data.root}: {what} ({values}); {fix}")
    problems = [few] if few else []
    if absent:
        problems.append(f"no pixel of {_names(absent)} in {which}")
    shared = [path.name for path, count in Counter(sample.label for sample in labeled).items() if path and count > 1]
    if shared:
        problems.append(f"{len(shared)} {_plural('mask', shared)} shared by several photos (e.g. {shared[0]})")
    by_kind: dict[str, list[str]] = {}
    for finding in [*odd, *study.conclude()]:
        by_kind.setdefault(finding.kind, []).append(finding.file)
    problems += [f"{TITLES[kind]}: {len(files)} (e.g. {files[0]})" for kind, files in by_kind.items()]
    if problems:
        warn(f"warning: {data.root}: {'; '.join(problems)}; run `{doctor}`")


def shared_photos(training: Sequence[Sample], val: Sequence[Sample]) -> set[Path]:
    """Photos of `val` that are in `training` too: the same path, or a copy with the same bytes.

    Only files whose sizes in bytes occur in both are read.
    """
    known = {sample.image for sample in training}
    shared = {sample.image for sample in val} & known
    by_size: dict[int, list[Path]] = {}
    for path in known:
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    hashes: dict[Path, str] = {}
    for path in {sample.image for sample in val} - shared:
        rivals = by_size.get(path.stat().st_size, []) if path.is_file() else []
        for file in (path, *rivals) if rivals else ():
            hashes[file] = hashes.get(file) or sha256(file)
        if any(hashes[rival] == hashes[path] for rival in rivals):
            shared.add(path)
    return shared


def _look(study: MaskStudy, samples: Sequence[Sample], doctor: str) -> tuple[np.ndarray, list[Finding]]:
    """Pixels of each class int64 `[C]`, and what a warning should say of single masks."""
    pixels, odd = np.zeros(study.data.num_classes, np.int64), []
    masks = []
    for sample in samples:
        if sample.label is None:
            study.data.read_label(sample)  # its UserError says where the mask should be
        else:
            masks.append(sample.label)
    for path, facts in zip(masks, ordered_map(inspect_mask, masks), strict=True):
        if facts.error is not None:
            raise unreadable(path, UnsupportedMask(facts.error) if facts.unsupported else facts.error)
        counts, findings = study.look(relative(study.data, path), facts)
        for finding in findings:
            if finding.kind in REFUSED:
                raise UserError(f"{path}: {finding.message}; run `{doctor}`")
            if finding.kind in ("palette-mask", "lossy-mask"):
                odd.append(finding)
        if counts is not None:
            pixels += counts.classes
    return pixels, odd


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _plural(noun: str, items: Sequence[object]) -> str:
    return noun if len(items) == 1 else f"{noun}s"
