"""Which files make up a split: photos, and the mask that belongs to each."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from unicodedata import normalize

import numpy as np

Item = TypeVar("Item")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Lossless formats; a mask in any of them is read. Where one stem has several, the first of these counts."""
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".gif", ".ppm", ".pgm", ".dng", ".cr2", ".nef")
"""Photos that people have and that datasets do not have. `semseg predict` tries to read them."""
PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)
RAW_SUFFIXES = (".dng", ".cr2", ".nef")
"""Of cameras: what would be read is the small preview in the file."""


class Sample(NamedTuple):
    """One image of a dataset; `label` is None for an unlabeled one."""

    stem: str
    """File name without suffix; below a nested split the sub-folders are part of it ("aachen/aachen_000000_000019")."""
    image: Path
    label: Path | None


@dataclass(frozen=True)
class SplitFiles:
    """Where the files of one split lie."""

    images: Path
    labels: Path | None = None
    """None: the split has no labels."""
    image_suffix: str = ""
    """What follows the stem in a photo's name; empty = any of IMAGE_SUFFIXES. Upper and lower case are equal."""
    label_suffix: str = ".png"
    """What follows the stem in a mask's name; .png = any of LABEL_SUFFIXES."""
    image_prefix: str = ""
    """What stands before the stem in a photo's name, as in img_1.jpg."""
    label_prefix: str = ""
    nested: bool = False
    """Descend into sub-folders; a mask lies in the sub-folder of the same name."""
    parents: tuple[str, str] | None = None
    """Names of the folders right above photos and masks that are no part of a stem: of a nested split whose every
    sub-folder holds both, as video/Images/x.png and video/Labels/x.png."""
    stems: tuple[str, ...] | None = None
    """Only these, in this order (a published list); None = every photo, sorted."""

    def photos(self) -> list[tuple[str, Path]]:
        """(stem, path) of every photo in the folder, listed in the split or not."""
        suffixes = (self.image_suffix,) if self.image_suffix else IMAGE_SUFFIXES
        return self._named(list_files(self.images, suffixes, self.nested), 0)

    def masks(self) -> dict[str, Path]:
        """Stem -> path of every mask in the folder, listed in the split or not."""
        if self.labels is None:
            return {}
        suffixes = LABEL_SUFFIXES if self.label_suffix == ".png" else (self.label_suffix,)
        return {
            stem: path
            for suffix in reversed(suffixes)
            for stem, path in self._named(list_files(self.labels, (suffix,), self.nested), 1)
        }

    def _named(self, files: list[tuple[str, Path]], kind: int) -> list[tuple[str, Path]]:
        """The files of a kind (0 photos, 1 masks), by stems without the folder that says the kind.

        An accent is part of its letter, however the file system spells it: masks may come from another machine.
        """
        files = [(normalize("NFC", name), path) for name, path in files]
        if prefix := (self.image_prefix, self.label_prefix)[kind]:
            files = [
                (name.removesuffix(path_name) + path_name.removeprefix(prefix), path)
                for name, path in files
                for path_name in (name.rpartition("/")[2],)
                if path_name.startswith(prefix)
            ]
        if self.parents is None:
            return files
        parent = self.parents[kind]
        return [
            (name.removesuffix(f"{parent}/{stem}") + stem, path)
            for name, path in files
            if path.parent.name == parent
            for stem in (name.rpartition("/")[2],)
        ]

    def rival_masks(self) -> list[list[Path]]:
        """Masks of one stem in several formats, the one that is read first."""
        if self.labels is None or self.label_suffix != ".png":
            return []
        by_stem: dict[str, list[Path]] = {}
        for suffix in LABEL_SUFFIXES:
            for stem, path in self._named(list_files(self.labels, (suffix,), self.nested), 1):
                by_stem.setdefault(stem, []).append(path)
        return [paths for paths in by_stem.values() if len(paths) > 1]

    def unread(self) -> list[Path]:
        """Photos in the folder whose format is not read."""
        if self.image_suffix or not self.images.is_dir():
            return []
        return [path for _, path in list_files(self.images, UNREAD_SUFFIXES, self.nested)]

    def samples(self) -> list[Sample]:
        """The split. A photo that a published list names but the folder lacks is included, under its expected path."""
        photos = self.photos()
        if self.stems is not None:
            by_stem = dict(photos)
            suffix = self.image_suffix or ".jpg"
            photos = [(stem, by_stem.get(stem, self.images / f"{stem}{suffix}")) for stem in self.stems]
        masks = self.masks()
        return [Sample(stem, path, masks.get(stem)) for stem, path in photos]


def why_unread(suffix: str) -> str:
    """The sentence about a photo with one of UNREAD_SUFFIXES: that it is not read, and what to do."""
    convert = "convert it to JPEG or PNG"
    if suffix.lower() in (".heic", ".heif"):
        convert = "convert it to JPEG (pip install pillow-heif, or set the camera to 'Most Compatible')"
    return f"{suffix} is not read; {convert}"


def list_files(folder: Path, suffixes: tuple[str, ...], nested: bool) -> list[tuple[str, Path]]:
    """(name below `folder` without suffix, path), sorted; hidden files and folders are left out, symlinks followed."""
    found: list[tuple[str, Path]] = []
    visited: set[str] = set()
    waiting = [(folder, "")]
    while waiting:
        current, prefix = waiting.pop()
        real = os.path.realpath(current)
        if real in visited:  # a symlink that leads back up
            continue
        visited.add(real)
        for entry in os.scandir(current):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if nested:
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                continue
            lower = entry.name.lower()
            suffix = next((suffix for suffix in suffixes if lower.endswith(suffix.lower())), None)
            if suffix is not None:
                found.append((prefix + entry.name[: -len(suffix)], Path(entry.path)))
    return sorted(found)


def imported_into(root: Path) -> list[Path]:
    """The datasets that were imported into a folder. Where the folder is imported once more, they do not count."""
    return [path.parent for path in root.glob("*/import.json")]


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, spread over the whole sequence."""
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items)))]


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks: what people call the folder that is labels/ here, in any case."""
    lower = name.lower()
    # VOC's SegmentationObject numbers the objects, not their classes.
    return lower in MASK_FOLDERS or (lower.startswith("segmentation") and lower != "segmentationobject")


MASK_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "ann_dir",
    "gt",
    "ground_truth",
    "groundtruth",
)


def near_misses(root: Path, folder: Path, name: str) -> list[str]:
    """Names, relative to `root`, that are probably the mask `folder`/`name`: other folders, other file names.

    A file comes near when the photo's name stands in it as a word of its own (p1_mask.png for p1, not p12.png), those
    with "label" in their name first (Cityscapes' labelTrainIds beside its instances and colors).
    """
    others = [path for path in root.iterdir() if is_mask_folder(path.name) and path.is_dir()]
    near = [f"{path.name}/" for path in sorted(others) if path not in (folder, *folder.parents)]
    expected = folder / name
    stem = re.sub(r"(_gtFine_labelIds|_L)?\.\w+$", "", expected.name)
    word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(stem)}(?![0-9A-Za-z])")
    if expected.parent.is_dir() and expected.is_relative_to(root):
        names = sorted(path.name for path in expected.parent.iterdir() if word.search(path.name) and path.is_file())
        names.sort(key=lambda other: "label" not in other.lower())
        near += [(expected.parent.relative_to(root) / other).as_posix() for other in names[:2]]
    return near
