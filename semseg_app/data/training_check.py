"""What spoils a training before its first step: masks that cannot be meant. The doctor says more; this is quick."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.listing import Sample, evenly_spaced
from semseg_app.errors import UserError

MOST_MASKS = 256
"""Masks that are looked at, evenly spaced over the list: seconds at most, whatever the size of the data."""
MOST_NAMES = 12


def refuse_or_warn(data: SegmentationData, labeled: list[Sample], warn: Callable[[str], None]) -> None:
    """Look at the masks of `labeled`. UserError where nothing can be learned from them; `warn` gets one line at most.

    Refused: a dataset of one class; masks without a labeled pixel; masks that all show one and the same class.
    Warned about: classes that no mask shows, photos that share a mask.
    """
    doctor = f"run `semseg check {data.root}`"
    if data.num_classes == 1:
        raise UserError(
            f"{data.root}: one class ({data.info.classes[0]}) leaves nothing to tell apart; name the rest too, for "
            "example as background, in dataset.yaml"
        )
    looked_at = evenly_spaced(labeled, MOST_MASKS)
    pixels, values = _count(data, looked_at)
    which = (
        f"all {len(labeled)} masks" if len(looked_at) == len(labeled) else f"{len(looked_at)} of {len(labeled)} masks"
    )
    present = [name for name, count in zip(data.info.classes, pixels, strict=True) if count]
    absent = [name for name in data.info.classes if name not in present]
    held = f"they hold the values {', '.join(map(str, sorted(values)[:8]))}" if values else "they are masks of colors"
    if not present:
        raise UserError(f"{data.root}: every pixel of {which} is ignored ({held}); {doctor}")
    if len(present) == 1:
        raise UserError(
            f"{data.root}: {which} show {present[0]} alone and no pixel of {_names(absent)} ({held}); {doctor} "
            "--fix-map FILE"
        )
    problems = []
    if absent:
        problems.append(f"no pixel of {_names(absent)} in {which}")
    shared = [path.name for path, count in Counter(sample.label for sample in labeled).items() if path and count > 1]
    if shared:
        problems.append(f"{len(shared)} masks belong to two photos each (e.g. {shared[0]})")
    if problems:
        warn(f"warning: {data.root}: {'; '.join(problems)}; {doctor}")


def _count(data: SegmentationData, samples: Iterable[Sample]) -> tuple[np.ndarray, set[int]]:
    """Pixels of each class int64 `[C]`, and the values of the files (empty for masks of colors)."""
    counts = np.zeros(256, np.int64)
    values: set[int] = set()
    for sample in samples:
        if sample.label is not None and data.moved_numbers(sample.label):
            raise UserError(
                f"{sample.label}: its palette of grays holds the class numbers, not its indices, as a PNG optimizer "
                f"leaves them; save it again as grayscale. `semseg check {data.root}` lists all such masks"
            )
        label = data.read_label(sample)
        counts += np.bincount(label.ravel(), minlength=256)
    if data.info.color_map is None:
        inverse = {int(target): value for value, target in enumerate(data.lookup.tolist()) if target >= 0}
        values = {inverse[int(target)] for target in np.flatnonzero(counts) if int(target) in inverse}
    return counts[: data.num_classes], values


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
