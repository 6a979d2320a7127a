"""The dataset doctor: reads every photo and mask once and says what is wrong, with the file. Changes nothing.

A finding is a mistake (`semseg check` exits with 1); a note is worth knowing and may be meant, such as a class that
the val split or a small labeled list does not show. A class that a training split never shows is a finding: nothing
can be learned for it.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.data.check_masks import ClassCounts, MaskStudy
from semseg_app.data.check_splits import Photo, list_findings, overlap_findings, partner_findings, relative, role
from semseg_app.data.dataset import SegmentationData
from semseg_app.data.findings import Finding
from semseg_app.data.fix_map import Proposal, propose
from semseg_app.data.inspection import TURNED, ImageFacts, MaskFacts, inspect
from semseg_app.data.listing import Sample
from semseg_app.data.parallel import ordered_map, ordered_map_in_processes


@dataclass
class SplitReport:
    """What one split holds."""

    images: int
    labeled: int
    class_pixels: np.ndarray
    """int64 [C]."""
    class_images: np.ndarray
    """int64 [C]: images that show the class."""
    masks_counted: int = 0
    """Masks whose classes could be told."""
    ignored_pixels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(width, height) -> photos."""
    pixels: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def mean(self) -> list[float]:
        """Mean of the photos' RGB in [0, 1]; zeros where none could be read."""
        return [float(value) for value in self.sums / max(self.pixels, 1) / 255]

    @property
    def std(self) -> list[float]:
        """Over all pixels of all photos, RGB in [0, 1]."""
        mean = self.sums / max(self.pixels, 1)
        return [float(value) for value in np.sqrt(np.maximum(self.squares / max(self.pixels, 1) - mean**2, 0)) / 255]

    def add(self, image: ImageFacts, counts: ClassCounts | None) -> None:
        """Take in one readable photo and what its mask shows."""
        self.sizes[image.size] += 1
        self.pixels += image.pixels
        self.sums += image.sums
        self.squares += image.squares
        if counts is not None:
            self.masks_counted += 1
            self.class_pixels += counts.classes
            self.class_images += counts.classes > 0
            self.ignored_pixels += counts.ignored


@dataclass
class CheckReport:
    """All that the doctor found."""

    data: SegmentationData
    splits: dict[str, SplitReport]
    lists: dict[str, int]
    """List -> images that it names."""
    findings: list[Finding]
    notes: list[Finding]
    proposal: Proposal | None
    """A description with a map under which the masks are valid, where one is called for."""
    pairs: int
    """Photos and masks read."""

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        info = self.data.info
        return {
            "root": str(self.data.root),
            "name": info.name,
            "classes": info.classes,
            "clean": not self.findings,
            "splits": {name: self._split_dict(split) for name, split in self.splits.items()},
            "lists": self.lists,
            "findings": [vars(finding) for finding in self.findings],
            "notes": [vars(note) for note in self.notes],
        }

    def _split_dict(self, split: SplitReport) -> dict[str, Any]:
        rows = zip(self.data.info.classes, split.class_pixels.tolist(), split.class_images.tolist(), strict=True)
        return {
            "images": split.images,
            "labeled": split.labeled,
            "sizes": {f"{width}x{height}": count for (width, height), count in split.sizes.most_common()},
            "mean": split.mean,
            "std": split.std,
            "ignored_pixels": split.ignored_pixels,
            "histogram": {name: {"pixels": pixels, "images": images} for name, pixels, images in rows},
        }


FEW_SHADES = 32
"""A photo without a mask that has no more levels of red, green and blue than this is probably a mask itself."""
MANY = 10_000
"""Pairs from which processes are worth their start, in which each imports what it needs. With 3,000 tiny pairs two of
them took 0.90 ms of the processor per pair, and threads 0.63."""


def check(
    data: SegmentationData, on_progress: Callable[[int, int], None] | None = None, processes: int = 1
) -> CheckReport:
    """Examine a dataset.

    Args:
        data: any dataset that opens.
        on_progress: called with (pairs read, pairs in all).
        processes: read the files of MANY pairs or more; with 1, threads do. The report is the same. See
            `ordered_map_in_processes` for what more than one needs from the calling program.
    """
    samples = {split: files.samples() for split, files in data.folders.items()}
    study = MaskStudy(data)
    reports = {split: _empty_report(data, members) for split, members in samples.items()}
    where: dict[Sample, list[str]] = {}
    for split, members in samples.items():
        for sample in members:
            where.setdefault(sample, []).append(split)

    found: list[Finding] = []
    photos: list[Photo] = []
    presence: dict[Path, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata; what matters becomes a finding
        if processes > 1 and len(where) >= MANY:
            facts = ordered_map_in_processes(inspect, where, processes)
        else:
            facts = ordered_map(inspect, where)
        for number, (sample, (image, mask)) in enumerate(zip(where, facts, strict=True), 1):
            counts, more = _look_at_pair(data, study, sample, image, mask)
            found += more
            if counts is not None and sample.label is not None:
                presence[sample.label] = counts.classes > 0
            for split in where[sample] if image.error is None else []:
                photos.append(Photo(split, sample, image.digest, image.thumbnail))
                reports[split].add(image, counts)
            if on_progress:
                on_progress(number, len(where))

    of_lists, lists = list_findings(data, samples, presence)
    found += study.conclude()
    if (few := study.few_classes()) is not None:
        found.append(Finding("few-classes", few, "."))
    if data.num_classes == 1 and (study.values or study.colors):
        name = data.info.classes[0]
        message = f"{name} alone leaves nothing to tell apart: name the rest too, classes: [background, {name}]"
        found.append(Finding("one-class", message, "."))
    found += partner_findings(data, samples)
    found += overlap_findings(data, photos)
    found += of_lists
    found += [finding for split, report in reports.items() for finding in _absent_classes(data, split, report)]
    return CheckReport(
        data=data,
        splits=reports,
        lists=lists,
        findings=[finding for finding in found if finding.severity == "finding"],
        notes=[finding for finding in found if finding.severity == "note"],
        proposal=propose(study),
        pairs=len(where),
    )


def _empty_report(data: SegmentationData, members: list[Sample]) -> SplitReport:
    zeros = np.zeros(data.num_classes, np.int64)
    labeled = sum(sample.label is not None for sample in members)
    return SplitReport(len(members), labeled, class_pixels=zeros, class_images=zeros.copy())


def _look_at_pair(
    data: SegmentationData, study: MaskStudy, sample: Sample, image: ImageFacts, mask: MaskFacts | None
) -> tuple[ClassCounts | None, list[Finding]]:
    found = []
    if image.error is not None:
        found.append(Finding("unreadable-image", image.error, relative(data, sample.image)))
    if image.pages > 1:
        message = f"holds {image.pages} pages, of which only the first is read; save each page that counts by itself"
        found.append(Finding("photo-of-pages", message, relative(data, sample.image)))
    if mask is None or sample.label is None:
        if image.error is None and image.shades <= FEW_SHADES:
            message = f"{image.shades} shades: a mask among the photos, or an empty photo?"
            found.append(Finding("photo-like-a-mask", message, relative(data, sample.image)))
        return None, found
    file = relative(data, sample.label)
    if mask.error is not None:
        return None, [*found, Finding("unreadable-mask", mask.error, file)]
    counts, more = study.look(file, mask)
    found += more
    if image.error is None:
        found += _size_findings(relative(data, sample.image), file, image, mask)
    return counts, found


def _size_findings(photo: str, file: str, image: ImageFacts, mask: MaskFacts) -> list[Finding]:
    width, height = image.size
    if mask.size == image.size:
        if image.orientation not in (1, *TURNED) or (image.orientation in TURNED and width == height):
            message = f"EXIF orientation {image.orientation}: it is read upright, so its mask must be drawn upright too"
            return [Finding("turned-photo", message, photo)]
        return []
    message = f"the mask is {mask.size[0]}x{mask.size[1]}, the photo {width}x{height}"
    if mask.size == (height, width):
        message += "; the mask lies on its side"
        if image.orientation in TURNED:
            message += f": the photo has EXIF orientation {image.orientation} and is read upright, so turn the mask too"
    return [Finding("size-mismatch", message, file)]


def _absent_classes(data: SegmentationData, split: str, report: SplitReport) -> list[Finding]:
    absent = [name for name, pixels in zip(data.info.classes, report.class_pixels, strict=True) if not pixels]
    if not absent or not report.masks_counted:
        return []
    kind = "class-absent" if role(split) == "train" else "class-absent-elsewhere"
    shown = ", ".join(absent[:12]) + (f" and {len(absent) - 12} more" if len(absent) > 12 else "")
    return [Finding(kind, f"no mask of {split!r} shows {shown}", relative(data, data.folders[split].images))]
