"""Which photos may be labeled next, and which have their label."""

from typing import NamedTuple

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError


class Candidates(NamedTuple):
    """Photos in the order of the dataset; no photo is in both."""

    unlabeled: list[Sample]
    labeled: list[Sample]


def candidates(data: SegmentationData, unlabeled: str | None, labeled: str | None) -> Candidates:
    """The photos of two lists or expressions of lists.

    Args:
        data: the dataset.
        unlabeled: photos to choose from; None: those without a mask, but for val and test splits.
        labeled: photos that have their label, which are no candidates; None: those with a mask, but for val and test
            splits and the candidates.

    Raises:
        UserError: no candidate remains.
    """
    splits = [split for split in data.folders if not split.lower().startswith(("val", "test"))]
    training = [sample for split in splits for sample in data.folders[split].samples()]
    wanted = data.samples(unlabeled) if unlabeled else [sample for sample in training if not sample.label]
    known = {sample.image: sample for sample in (data.samples(labeled) if labeled else [])}
    free = {sample.image: sample for sample in wanted if sample.image not in known}
    if not labeled:
        known = {sample.image: sample for sample in training if sample.label and sample.image not in free}
    if not free:
        where = repr(unlabeled) if unlabeled else "a training split"
        raise UserError(f"{data.root}: no photo of {where} is without a label; name others with --list")
    return Candidates(list(free.values()), list(known.values()))
