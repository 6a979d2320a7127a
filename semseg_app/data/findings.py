"""What the doctor has to say: findings (the dataset is wrong, exit code 1) and notes (worth knowing, exit code 0)."""

from dataclasses import dataclass
from typing import Literal

TITLES = {
    "unreadable-image": "unreadable photo",
    "unreadable-mask": "unreadable mask",
    "size-mismatch": "photo and mask differ in size",
    "color-mask": "mask of colors where numbers are expected",
    "palette-mask": "mask whose palette colors, not its numbers, are the classes",
    "binary-mask": "binary mask saved as 0 and 255",
    "gray-palette-mask": "mask whose numbers a PNG optimizer moved into its palette",
    "one-bit-mask": "mask of one bit among masks of numbers",
    "value-outside": "values outside the classes",
    "one-class": "a single class",
    "few-classes": "masks of far fewer classes than the dataset names",
    "off-by-one": "labels shifted by one",
    "lossy-mask": "mask saved with lossy compression",
    "no-mask": "photo without a mask in a labeled split",
    "no-labels-folder": "masks are not where they are read from",
    "no-photo": "mask without a photo",
    "unread-photo": "photo in a format that is not read",
    "same-stem": "two photos of one name in a split",
    "overlap": "the same photo in training and evaluation",
    "list-entry": "list names what is not there",
    "list-repeat": "list repeats an image",
    "list-overlap": "labeled and unlabeled list overlap",
    "list-leak": "list takes training images from an evaluation split",
    "class-absent": "class absent from a training split",
    "split-count": "split has another size than dataset.yaml says",
    "empty-split": "split without photos",
    # Notes.
    "empty-mask": "mask without any class, all ignored",
    "duplicate-photo": "the same photo twice",
    "name-in-two-splits": "name in two splits, different photos",
    "list-hidden": "list that is not read, since a split has its name",
    "list-incomplete": "labeled and unlabeled list leave images out",
    "class-absent-elsewhere": "class absent from an evaluation split or a labeled list",
    "unlabeled-split": "split without labels",
    "turned-photo": "photo that is turned when read",
    "photo-of-pages": "photo of several pages",
    "photo-like-a-mask": "photo that looks like a mask",
    "jfif-photo": "JPEG under the name .jfif",
    "unused-mask": "masks that no split uses",
    "two-masks": "photo with masks in two formats",
    "partly-labeled": "training split with masks for some of its photos",
    # Notes of a model, which is no proof (`--model`).
    "mask-shifted": "mask that agrees better with the model when it is moved",
    "mask-classes-swapped": "mask in which two classes look swapped",
    "mask-other-class": "mask that names another class than the model",
    "mask-object-missing": "region that the model sees and the mask lacks",
    "mask-object-unseen": "region of the mask that the model does not see",
    "mask-sloppy-outline": "mask whose outlines are far from the model's",
}
"""Kind -> heading."""

NOTES = frozenset(
    {
        "empty-mask",
        "duplicate-photo",
        "name-in-two-splits",
        "list-hidden",
        "list-incomplete",
        "class-absent-elsewhere",
        "unlabeled-split",
        "partly-labeled",
        "turned-photo",
        "jfif-photo",
        "photo-of-pages",
        "photo-like-a-mask",
        "mask-shifted",
        "mask-classes-swapped",
        "mask-other-class",
        "mask-object-missing",
        "mask-object-unseen",
        "mask-sloppy-outline",
    }
)
"""Kinds that are no mistake by themselves."""


@dataclass(frozen=True)
class Finding:
    """One thing, at one place."""

    kind: str
    """A key of TITLES."""
    message: str
    file: str
    """Relative to the dataset's root; with ":<line>" in a list."""

    @property
    def severity(self) -> Literal["finding", "note"]:
        return "note" if self.kind in NOTES else "finding"
