"""Masks of one class or of one object each, several for a photo. What is not black (0) belongs to it.

masks/road/a.png, masks/car/a.png       a folder for each class
masks/a_road.png, masks/a_car.png       the class after the photo's name (CelebAMask-HQ, ISIC, IDRiD)
masks/road_a.png, masks/car_a.png       or before it
a_mask.png, a_mask_1.png                beside the photo, one for each object (BUSI)
masks/a/road.png, masks/a/car.png       a folder for each photo; below it, perhaps, one for each class
a/images/a.png, a/masks/0f31.png        the same around both, a mask for each object (Data Science Bowl 2018)

Names that differ from photo to photo, or are numbers, tell objects apart; `--classes` names what they are. It also says
whether numbers behind words (car_1, car_2) belong to the names of classes. Where masks of a photo overlap, the smaller
one is seen: eyes lie on skin.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import combinations
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
from semseg_app.data.importers.photo_index import PhotoIndex, equal_end, split_of
from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, evenly_spaced, imported_into, list_files
from semseg_app.data.loose_folders import GROUND_TRUTH, MASK_WORDS, OTHER_WORDS, PHOTO_WORDS, VIEW_WORDS, words_of
from semseg_app.data.mask_pixels import INDEX_MODES, check_mask, numbers, unreadable
from semseg_app.errors import UserError
from semseg_app.photos import DECODING_ERRORS

MOST_LOOKED_AT = 8
"""Masks that are opened to see whether they are of single classes."""
MOST_COMPARED = 24
"""Masks of a photo that are compared with each other."""
SAME_OBJECT = 0.5
"""How much of the smaller of two objects may lie on the other."""
SAME_CLASS = 0.7
"""How much of what two classes cover together may be of both, in every photo."""
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
    views: list[Path]
    """What shows masks in colors or numbers objects, by its name."""


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
    if not root.is_dir():
        raise UserError(f"{root}: is a file; name the folder of the masks")
    found = _look(root, given)
    if not found.parts:
        raise UserError(f"{root}: no photo with several masks; --format mask-folders reads one mask for each photo")
    class_of, kind = _classes(root, found.parts, options.classes)
    masks: dict[Path, list[tuple[Path, str]]] = {}
    for part in found.parts:
        masks.setdefault(part.photo.path, []).append((part.mask, class_of[part.name]))
    items = []
    for photo in found.photos:
        its = masks.get(photo.path, [])
        name = "/".join((*photo.folders, photo.path.name))
        split = photos.split_by_folders(photo.path) or split_of("/".join(photo.folders))
        items.append(Item(name, photo.path, partial(_draw, its), f"{its[0][0] if its else photo.path}", split))
    notes = [f"{len(found.parts):,} masks of single {kind}, of {len(masks):,} photos"]
    for what, paths in (("have no photo", found.left), ("show others in colors or numbers, by name", found.views)):
        if paths:
            names = some([path.relative_to(root).as_posix() for path in paths])
            notes.append(f"{len(paths):,} of the masks {what} ({names})")
    notes += _drawn_twice(list(masks.values()))
    return Export(f"masks of single {kind}", sorted({*class_of.values()}), items, "largest-on-bottom", notes=notes)


def _classes(root: Path, parts: Sequence[_Part], wanted: Sequence[str]) -> tuple[dict[str, str], str]:
    """What each name of a mask becomes, and whether names are of classes or objects; where it is open, `wanted` says.

    Names that differ by numbers alone may be classes (grade_1), objects (car_1), or people who drew the same thing.
    """
    names = sorted({part.name for part in parts})
    words = {name: _without_numbers(name) for name in names}
    uses = Counter(words[part.name] for part in parts)
    alike = Counter(words.values())
    numbered = [name for name in names if alike[words[name]] > 1 or not words[name]]
    are_words = "" not in uses and (len({part.photo.path for part in parts}) == 1 or max(uses.values()) > 1)
    if (are_words and not numbered) or {name for name in numbered if name != words[name]} & {*wanted}:
        return {name: name for name in names}, "classes"
    if are_words and {words[name] for name in numbered} & {*wanted}:
        return {name: words[name] if name in numbered else name for name in names}, "objects"
    if are_words:
        joined = sorted({*words.values()})
        raise UserError(
            f"{root}: {' and '.join(numbered[:2])} differ by numbers alone; where each is a class, say --classes "
            f"{','.join(names[:3])}{',...' if len(names) > 3 else ''}; where numbers count objects, --classes "
            f"{','.join(joined[:3])}{',...' if len(joined) > 3 else ''}; where several people drew the same, import "
            "the masks of one"
        )
    foreground = [name for name in wanted if name.strip("_ ").lower() != BACKGROUND]
    if len(foreground) == 1 and len(wanted) <= 2:
        return dict.fromkeys(names, foreground[0]), "objects"
    raise UserError(
        f"{root}: several masks for a photo, and their names ({', '.join(part.mask.name for part in parts[:3])}) tell "
        f"objects apart, not classes; name what all of them show with --classes {BACKGROUND},NAME; where it is several "
        "classes, put the masks of each into a folder of its name"
    )


def _without_numbers(name: str) -> str:
    """ "car_1" -> "car"; nothing where a name is a number or a checksum."""
    if re.fullmatch(r"(?=.*\d)[0-9a-f]{4,}", name.lower()):
        return ""
    return re.sub(r"\d+(st|nd|rd|th)?", "", name).strip("_")


def _drawn_twice(masks: Sequence[Sequence[tuple[Path, str]]]) -> Iterator[str]:
    """A sentence for what lies on each other as neither objects of a class nor classes do, in the photos looked at."""
    shares: dict[tuple[str, str], list[float]] = {}
    for its in evenly_spaced([its for its in masks if len(its) > 1], MOST_LOOKED_AT):
        regions = [(name, _region(path)) for path, name in its[:MOST_COMPARED]]
        for (name, region), (other_name, other) in combinations(regions, 2):
            if region.shape == other.shape and region.any() and other.any():
                around = min(region.sum(), other.sum()) if name == other_name else (region | other).sum()
                shares.setdefault((name, other_name), []).append((region & other).sum() / around)
    for (name, other_name), found in shares.items():
        if name == other_name and max(found) > SAME_OBJECT:
            yield f"masks of {name} lie on each other; where people drew the same, or edges, import one of each photo"
        elif name != other_name and min(found) > SAME_CLASS:
            yield (
                f"{name} and {other_name} cover nearly the same pixels; where they are people or versions, and no "
                "classes, import the masks of one"
            )


def _look(root: Path, given: Sequence[Path]) -> _Found:
    """Photos and masks, and what each mask is of; without parts where nothing says it, or all photos have one mask."""
    listed = _listed(root)
    files = [file for file in listed if not any(map(_shows_others, file.folders))]
    lossless = [file for file in files if file.path.suffix.lower() in LABEL_SUFFIXES]
    if given := [folder for folder in given if folder.resolve() != root.resolve()]:
        photos = _given_photos(given, {_place(file) for file in files}, root)
        known = {*map(_place, photos)}
        masks = [file for file in lossless if _place(file) not in known]
    else:
        # What the folders around all of them are called says nothing.
        folders = [file.folders for file in files] or [()]
        top = equal_end(min(folders)[::-1], max(folders)[::-1])
        photos = [file for file in files if not any(map(_is_for_masks, file.folders[top:]))]
        masks = [file for file in lossless if any(map(_is_for_masks, file.folders[top:]))]
        if not masks:
            stems = {(file.folders, file.stem) for file in files}
            masks = [it for it in lossless if any((it.folders, start) in stems for start in _starts(it.stem))]
            beside = {mask.path for mask in masks}
            photos = [file for file in files if file.path not in beside]
    parts, views = _parts(_Index(photos), masks, len(photos))
    if not parts:
        return _Found(photos, [], [], [])
    around = {part.photo.path.parent for part in parts}
    photos = [it for it in photos if it.path.parent in around or any(PHOTO_WORDS & {*words_of(f)} for f in it.folders)]
    known = {part.mask for part in (*parts, *views)}
    shown = [it.mask for it in views]
    shown += [
        it.path for it in listed if any(map(_shows_others, it.folders)) and it.path.suffix.lower() in LABEL_SUFFIXES
    ]
    return _Found(photos, parts, [mask.path for mask in masks if mask.path not in known], shown)


def _given_photos(given: Sequence[Path], below: set[Path], root: Path) -> list[_File]:
    """The photos in the folders that are given, of which one may lie around the masks."""
    listed = []
    for folder in given:
        is_around = root.resolve().is_relative_to(folder.resolve())
        listed += [file for file in _listed(folder) if not is_around or _place(file) not in below]
    listed = [file for file in listed if not any(map(_shows_others, file.folders))]
    return [file for file in listed if not any(map(_is_for_masks, file.folders))] or listed


def _place(file: _File) -> Path:
    """Where a file lies, however its folder was named; the file itself may be a link."""
    return file.path.parent.resolve() / file.path.name


def _parts(index: "_Index", masks: Sequence[_File], photos: int) -> tuple[list[_Part], list[_Part]]:
    """What the masks are of, by the first way that fits all of them, and those that only show others."""
    for way in (index.by_name, index.by_class_folder, index.by_photo_folder, index.by_end):
        all_parts = [part for mask in masks if (part := way(mask))]
        parts = [part for part in all_parts if not _is_view(part.name)]
        names, uses = {part.name for part in parts}, Counter(part.photo.path for part in parts)
        have_words = any(map(_without_numbers, names))
        if way == index.by_name and not have_words:
            classes = {(part.photo.path, part.name) for mask in masks if (part := index.by_class_folder(mask))}
            if max(Counter(photo for photo, _ in classes).values(), default=0) > 1:
                continue  # the names only count the objects of a class
        several = max(uses.values(), default=0) > 1 or way == index.by_class_folder
        enough = 2 * len(parts) >= len(masks) or (len(uses) == photos and min(uses.values()) > 1)
        # Beside a.png, a_edge.png is no class, and a_1.png may be an object.
        if several and enough and len(names) > 1 and not ("" in names and have_words):
            return parts, [part for part in all_parts if _is_view(part.name)]
    return [], []


class _Index:
    """The photos, to be found by what the path of a mask says: four ways to tell the photo, and a class or object."""

    def __init__(self, photos: Sequence[_File]):
        self._by_stem: dict[str, list[_File]] = {}
        self._by_number: dict[int, list[_File]] = {}
        """Those whose names are numbers, however many zeros they begin with."""
        self._below: dict[tuple[str, ...], list[_File]] = {}
        """Folders -> the photos in them or further down."""
        for photo in photos:
            self._by_stem.setdefault(photo.stem, []).append(photo)
            if photo.stem.isdecimal():
                self._by_number.setdefault(int(photo.stem), []).append(photo)
            for count in range(len(photo.folders) + 1):
                self._below.setdefault(photo.folders[:count], []).append(photo)

    def by_name(self, mask: _File) -> _Part | None:
        """Of the photo whose name the mask's begins with; the rest names the class or object."""
        for start in (mask.stem, *_starts(mask.stem)):
            if photo := self._nearest(start, mask):
                return _Part(photo, mask.path, _plain(mask.stem.removeprefix(start)))
        return None

    def by_end(self, mask: _File) -> _Part | None:
        """Of the photo whose name the mask's ends with."""
        for start in _starts(mask.stem)[::-1]:
            end = mask.stem[len(start) + 1 :]
            if end and (photo := self._nearest(end, mask)):
                return _Part(photo, mask.path, _plain(start))
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
        """Of the photo that a folder is named after, or that alone lies beside it; folders below may be of classes."""
        for count in range(len(mask.folders), 0, -1):
            near = self._below.get(mask.folders[:count], [])
            photo = self._nearest(mask.folders[count - 1], mask) or (near[0] if len(near) == 1 else None)
            if photo:
                named = self.by_name(mask)
                if named and named.photo != photo:
                    return None
                below = next(filter(None, map(_plain, reversed(mask.folders[count:]))), "")
                return _Part(photo, mask.path, below or _plain(mask.stem.removeprefix(photo.stem)))
        return None

    def _nearest(self, stem: str, mask: _File) -> _File | None:
        """The photo of this name that has most folders in common with the mask; None where two have as many."""
        alike = self._by_stem.get(stem) or (self._by_number.get(int(stem)) if stem.isdecimal() else None) or []
        common = [len({*photo.folders} & {*mask.folders}) for photo in alike]
        return alike[common.index(max(common))] if common.count(max(common, default=0)) == 1 else None


def _listed(folder: Path) -> list[_File]:
    """The pictures below a folder, without those of datasets that were imported there."""
    imported = {normalize("NFC", path.name) for path in imported_into(folder)}
    found = [(normalize("NFC", name).split("/"), path) for name, path in list_files(folder, SUFFIXES, nested=True)]
    files = [_File(path, tuple(folders), stem) for (*folders, stem), path in found]
    return [file for file in files if not imported & {*file.folders[:1]}]


@lru_cache(maxsize=4096)
def _shows_others(folder: str) -> bool:
    """Whether a folder's pictures show masks in colors, or number objects: GT_Instance. Objects alone are a class."""
    words = {*words_of(folder)}
    return bool(words & VIEW_WORDS) or bool(words & OTHER_WORDS and words & {*MASK_WORDS, "ids"})


def _is_for_masks(folder: str) -> bool:
    return bool(MASK_WORDS & {*words_of(folder)})


def _is_view(name: str) -> bool:
    """Whether masks of this name show others in colors, or number objects: gtFine_color, instance_id_RGB."""
    words = [word for word in words_of(name) if word != "rgb"]
    return (
        bool(VIEW_WORDS & {*words[-1:]}) or words[-1:] == ["ids"] or words[-2:] in (["instance", "id"], ["label", "id"])
    )


def _starts(stem: str) -> list[str]:
    """What a name begins with before each sign between its words, the longest first."""
    return [stem[:end] for end in range(len(stem) - 1, 0, -1) if stem[end] in SEPARATORS]


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    """A name without the words that say that it is of a mask: "mask_1" -> "1"."""
    words = [word for word in re.split(f"[{re.escape(SEPARATORS)}]+", GROUND_TRUTH.sub("gt", name)) if word]
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
    """Whether a mask shows one class or object, or nothing that can be read, which is said once it is."""
    try:
        _region(path)
    except UserError as error:
        return error.__cause__ is not None
    return True
