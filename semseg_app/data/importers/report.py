"""What an import read and what it wrote. Nothing is left out without a line here."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class ImportReport:
    """Counts in and counts out: every object read is in exactly one of drawn, ignored, without_pixels and no_area."""

    title: str
    """Tool and format."""
    overlap: str
    background: str
    """The class of pixels without an object, or "ignore"."""
    classes: list[str]
    class_pixels: np.ndarray
    """int64 [C], over all masks."""
    class_photos: np.ndarray
    """int64 [C]: masks that show the class."""
    photos_read: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    """Labeled photos per split; photos without an annotation are in "unlabeled"."""
    missing_photos: list[str] = field(default_factory=list)
    """Left out with --skip-missing."""
    renamed: int = 0
    """Photos named after their folders, because several had one name."""
    turned: int = 0
    """Masks that were turned with their photo, as its EXIF orientation says."""
    voted: int = 0
    """Photos with several annotators, whose majority counts."""
    traced: int = 0
    """Photos whose outlines follow pixels, so that their corners count as middles of pixels."""
    objects_read: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    """Class of the export -> objects."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Class of the export, or "crowd or unknown" -> objects whose pixels are 255."""
    without_pixels: int = 0
    """Objects that cover no pixel: outside the photo, or thinner than one."""
    no_area: Counter[str] = field(default_factory=Counter)
    """Kinds of annotation that cannot be a mask (points, lines) -> how many were left out."""
    ignored_pixels: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For --json, and for import.json in the folder."""
        rows = zip(self.classes, self.class_pixels.tolist(), self.class_photos.tolist(), strict=True)
        return {
            "format": self.title,
            "overlap": self.overlap,
            "background": self.background,
            "photos": {"read": self.photos_read, "written": dict(self.splits), "missing": self.missing_photos},
            "objects": {
                "read": self.objects_read,
                "drawn": dict(self.drawn),
                "ignored": dict(self.ignored),
                "without_pixels": self.without_pixels,
                "no_area": dict(self.no_area),
            },
            "classes": {name: {"pixels": pixels, "photos": photos} for name, pixels, photos in rows},
            "ignored_pixels": self.ignored_pixels,
            "renamed": self.renamed,
            "turned": self.turned,
            "voted": self.voted,
            "traced": self.traced,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """For people."""
        written = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        lines = [f"{self.title}: {counted(self.photos_read, 'photo')} -> {written}"]
        if self.objects_read:
            parts = [f"{self.drawn.total():,} drawn"]
            if self.ignored:
                parts.append(f"{self.ignored.total():,} ignored, 255 ({_counts(self.ignored)})")
            if self.without_pixels:
                parts.append(f"{self.without_pixels:,} without a pixel in the photo")
            if self.no_area:
                parts.append(f"{self.no_area.total():,} without an area left out ({_counts(self.no_area)})")
            lines.append(f"{counted(self.objects_read, 'object')}: {', '.join(parts)}")
            lines.append(
                f"where objects overlap: {OVERLAPS[self.overlap]}; pixels without an object: {self.background}"
            )
        if self.missing_photos:
            lines.append(
                f"left out, photo missing: {len(self.missing_photos):,} ({', '.join(self.missing_photos[:5])})"
            )
        for count, what, text in (
            (self.renamed, "photo", "named after folders, because another has the same name"),
            (self.turned, "mask", "turned upright with the photo (EXIF orientation)"),
            (self.voted, "photo", "with several annotators: each pixel takes the class of the majority, 255 on a tie"),
            (
                self.traced,
                "photo",
                "with outlines traced along pixels, as OpenCV does: corners are taken as middles of pixels "
                "(--vertices edges: as edges)",
            ),
        ):
            if count:
                lines.append(f"{counted(count, what)} {text}")
        return [*lines, *self.notes]


OVERLAPS = {
    "last": "the later object is seen",
    "z-order": "the object with the higher z-order is seen",
    "largest-on-bottom": "the smaller object is seen",
}


def counted(number: int, what: str) -> str:
    """ "1 photo", "1,200 photos"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common(6))
