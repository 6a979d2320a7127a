"""Masks of one class or of one object each, several for a photo. What is not black (0) belongs to it.

masks/road/a.png, masks/car/a.png       a folder for each class
masks/a_road.png, masks/a_car.png       the class after the photo's name (CelebAMask-HQ, ISIC, IDRiD)
a_mask.png, a_mask_1.png                beside the photo, one for each object (BUSI)
masks/a/road.png, masks/a/car.png       a folder for each photo
a/images/a.png, a/masks/0f31.png        the same around both, a mask for each object (Data Science Bowl 2018)

Names that differ from photo to photo, or are numbers, tell objects apart; `--classes` names what they are. Where masks
of a photo overlap, the smaller one is seen: eyes lie on skin.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image

from semseg_app.data.fix_map import DARK, LIGHT, MOST_ON_EDGES
from semseg_app.data.importers.annotated import (
    BACKGROUND,
    Bitmap,
    Drawing,
    Export,
    Item,
    Object,
    ReadOptions,
    Size,
    some,
)
from semseg_app.data.importers.photo_index import PhotoIndex, split_of
from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, evenly_spaced, list_files
from semseg_app.data.loose_folders import MASK_WORDS, OTHER_WORDS, PHOTO_WORDS, words_of
from semseg_app.data.mask_pixels import INDEX_MODES, check_mask, numbers, unreadable
from semseg_app.errors import UserError
from semseg_app.photos import DECODING_ERRORS

MOST_LOOKED_AT = 8
"""Masks that are opened to see whether they are of single classes."""
SEPARATORS = "-_. "
SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *LABEL_SUFFIXES)))


class _File(NamedTuple):
    """A photo or a mask."""

    path: Path
    folders: tuple[str, ...]
    """Those below the folder that was given."""
    stem: str


class _Part(NamedTuple):
    """A mask, and what it is of."""

    photo: _File
    mask: Path
    name: str
    """Of a class, or what tells the objects of a photo apart; may be empty."""


class _Found(NamedTuple):
    photos: list[_File]
    parts: list[_Part]
    left: list[Path]
    """Masks without a photo."""


def find(root: Path) -> list[Path]:
    """The folder, where its photos have masks of single classes or objects."""
    return [root] if root.is_dir() and fits(root, ()) else []


def fits(root: Path, folders: Sequence[Path]) -> bool:
    """Whether photos, in `folders` or in `root` itself, have masks of single classes or objects in `root`."""
    found = _look(root, folders)
    return bool(found.parts) and all(_is_single(part.mask) for part in evenly_spaced(found.parts, MOST_LOOKED_AT))


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read a folder of photos and masks; the masks of a photo are read when it is drawn."""
    root, given = files[0], photos.folders[:-1]
    found = _look(root, given)
    if not found.parts:
        raise UserError(f"{root}: no photo with several masks; --format mask-folders reads one mask for each photo")
    object_name = _object_name(root, found.parts, options.classes)
    masks: dict[Path, list[tuple[Path, str]]] = {}
    for part in found.parts:
        masks.setdefault(part.photo.path, []).append((part.mask, object_name or part.name))
    items = []
    for photo in found.photos:
        its = masks.get(photo.path, [])
        name = "/".join((*photo.folders, photo.path.name))
        split = photos.split_by_folders(photo.path) or split_of("/".join(photo.folders))
        items.append(Item(name, photo.path, partial(_draw, its), f"{its[0][0] if its else photo.path}", split))
    kind = "objects" if object_name else "classes"
    notes = [f"{len(found.parts):,} masks of single {kind}, of {len(masks):,} photos"]
    if found.left:
        names = some([path.relative_to(root).as_posix() for path in found.left])
        notes.append(f"{len(found.left):,} of the masks have no photo ({names})")
    classes = [object_name] if object_name else sorted({part.name for part in found.parts})
    return Export(f"masks of single {kind}", classes, items, "largest-on-bottom", notes=notes)


def _object_name(root: Path, parts: Sequence[_Part], wanted: Sequence[str]) -> str | None:
    """The class of all masks, where their names tell objects apart; None where the names are classes."""
    uses = Counter(part.name for part in parts)
    photos = {part.photo.path for part in parts}
    are_words = all(name and not re.fullmatch(r"[0-9a-f]*\d[0-9a-f]*", name.lower()) for name in uses)
    if are_words and (len(photos) == 1 or max(uses.values()) > 1):
        return None
    foreground = [name for name in wanted if name.strip("_ ").lower() != BACKGROUND]
    if len(foreground) == 1 and len(wanted) <= 2:
        return foreground[0]
    raise UserError(
        f"{root}: several masks for a photo, and their names ({', '.join(part.mask.name for part in parts[:3])}) tell "
        f"objects apart, not classes; name what all of them show with --classes {BACKGROUND},NAME; where it is several "
        "classes, put the masks of each into a folder of its name"
    )


def _look(root: Path, given: Sequence[Path]) -> _Found:
    """Photos and masks, and what each mask is of; without parts where nothing says it, or all photos have one mask."""
    files = _listed(root)
    lossless = [file for file in files if file.path.suffix.lower() in LABEL_SUFFIXES]
    if given:
        photos = [file for folder in given for file in _listed(folder)]
        known = {photo.path for photo in photos}
        masks = [file for file in lossless if file.path not in known]
    else:
        photos = [file for file in files if not any(map(_is_for_masks, file.folders))]
        masks = [file for file in lossless if any(map(_is_for_masks, file.folders))]
        if not masks:
            stems = {(file.folders, file.stem) for file in files}
            masks = [it for it in lossless if any((it.folders, start) in stems for start in _starts(it.stem))]
            known = {mask.path for mask in masks}
            photos = [file for file in files if file.path not in known]
    index = _Index(photos)
    for way in (index.by_name, index.by_class_folder, index.by_photo_folder):
        parts = [part for mask in masks if (part := way(mask))]
        most = max(Counter(part.photo.path for part in parts).values(), default=0)
        several = most > 1 or way == index.by_class_folder
        if several and 2 * len(parts) >= len(masks) and len({part.name for part in parts}) > 1:
            break
    else:
        return _Found(photos, [], [])
    around = {part.photo.path.parent for part in parts}
    photos = [it for it in photos if it.path.parent in around or any(PHOTO_WORDS & {*words_of(f)} for f in it.folders)]
    read_from = {part.mask for part in parts}
    return _Found(photos, parts, [mask.path for mask in masks if mask.path not in read_from])


class _Index:
    """The photos, to be found by what the path of a mask says: three ways to tell the photo, and a class or object."""

    def __init__(self, photos: Sequence[_File]):
        self._by_stem: dict[str, list[_File]] = {}
        self._below: dict[tuple[str, ...], list[_File]] = {}
        """Folders -> the photos in them or further down."""
        for photo in photos:
            self._by_stem.setdefault(photo.stem, []).append(photo)
            for count in range(len(photo.folders) + 1):
                self._below.setdefault(photo.folders[:count], []).append(photo)

    def by_name(self, mask: _File) -> _Part | None:
        """Of the photo whose name the mask's begins with; the rest names the class or object."""
        for start in (mask.stem, *_starts(mask.stem)):
            if photo := self._nearest(start, mask):
                return _Part(photo, mask.path, _plain(mask.stem.removeprefix(start)))
        return None

    def by_class_folder(self, mask: _File) -> _Part | None:
        """The same, of the class that a folder is named after which is none of the photo's."""
        if (part := self.by_name(mask)) is None:
            return None
        for folder in reversed(mask.folders):
            if (name := _plain(folder)) and folder not in part.photo.folders and split_of(folder) is None:
                return part._replace(name=name)
        return None

    def by_photo_folder(self, mask: _File) -> _Part | None:
        """Of the photo that the folder is named after, or that alone lies beside it."""
        for count in range(len(mask.folders), 0, -1):
            near = self._below.get(mask.folders[:count], [])
            photo = self._nearest(mask.folders[count - 1], mask) or (near[0] if len(near) == 1 else None)
            if photo:
                return _Part(photo, mask.path, _plain(mask.stem.removeprefix(photo.stem)))
        return None

    def _nearest(self, stem: str, mask: _File) -> _File | None:
        """The photo of this name that has most folders in common with the mask; None where two have as many."""
        alike = self._by_stem.get(stem, [])
        common = [len({*photo.folders} & {*mask.folders}) for photo in alike]
        return alike[common.index(max(common))] if common.count(max(common, default=0)) == 1 else None


def _listed(folder: Path) -> list[_File]:
    """The pictures below a folder, without those that show masks in colors or number objects."""
    found = [(normalize("NFC", name).split("/"), path) for name, path in list_files(folder, SUFFIXES, nested=True)]
    files = [_File(path, tuple(folders), stem) for (*folders, stem), path in found]
    return [file for file in files if not any(OTHER_WORDS & {*words_of(it)} for it in file.folders)]


def _is_for_masks(folder: str) -> bool:
    return bool(MASK_WORDS & {*words_of(folder)})


def _starts(stem: str) -> list[str]:
    """What a name begins with before each sign between its words, the longest first."""
    return [stem[:end] for end in range(len(stem) - 1, 0, -1) if stem[end] in SEPARATORS]


def _plain(name: str) -> str:
    """A name without the words that say that it is of a mask: "mask_1" -> "1"."""
    words = [word for word in re.split(f"[{re.escape(SEPARATORS)}]+", name) if word]
    while words and words[0].lower() in MASK_WORDS:
        del words[0]
    while words and words[-1].lower() in MASK_WORDS:
        del words[-1]
    return "_".join(words)


def _draw(masks: Sequence[tuple[Path, str]], size: Size) -> Drawing | None:
    """The objects of a photo; None where it has no mask. The masks say the size of the picture that was annotated."""
    if not masks:
        return None
    regions = [_region(path) for path, _ in masks]
    objects = []
    for (path, name), region in zip(masks, regions, strict=True):
        if region.shape != regions[0].shape:
            raise UserError(f"{path}: has another size than {masks[0][0]}, of the same photo")
        if region.any():
            objects.append(Object(name, Bitmap(region), f"{path}"))
    height, width = regions[0].shape
    return Drawing([objects], size=(width, height))


def _region(path: Path) -> np.ndarray:
    """bool `[H, W]`: what a mask of a single class or object covers. UserError where it holds more than that."""
    try:
        with Image.open(path) as mask:
            check_mask(mask)
            if mask.mode in INDEX_MODES and mask.mode != "P":
                values = numbers(mask)
            else:
                colors = np.asarray(mask.convert("RGB"), np.int32)
                values = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
                if (colors == colors[..., :1]).all():
                    values = colors[..., 0]
    except DECODING_ERRORS as error:
        raise unreadable(path, error) from error
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) == 1 or (len(levels) == 2 and levels[0] == 0):
        return np.asarray(values != 0)
    edges = counts[(levels >= DARK) & (levels < LIGHT)].sum()
    if levels[0] >= 0 and LIGHT <= levels[-1] < 256 and edges <= MOST_ON_EDGES * values.size:
        return np.asarray(values > 127)
    shown = some([str(level) for level in levels.tolist()])
    raise UserError(
        f"{path}: holds {len(levels)} values ({shown}); a mask of a single class or object is black (0) but for one"
    )


def _is_single(path: Path) -> bool:
    try:
        _region(path)
    except UserError:
        return False
    return True
