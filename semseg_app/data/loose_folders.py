"""Photos beside masks that nothing describes, as people and other projects keep them: what to write and what to move.

img_dir/train + ann_dir/train    mmsegmentation; and photos/ + masks/, with folders for the splits or without
train/images + train/masks       the split first
train + train_masks              Carvana
"""

import re
from pathlib import Path
from typing import NamedTuple

from semseg_app.data.importers.photo_index import split_of
from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, is_mask_folder, list_files

PHOTO_FOLDERS = ("images", "photos", "imgs", "img", "image", "img_dir", "rgb", "jpegimages", "train")
SPLITS = ("train", "val", "test")
MOST_MOVES = 3
_MASKS_OF = re.compile(r"[ _.-]*(masks?|labels?|annot(ation)?s?|gt|seg(mentation)?s?)")
"""What follows the name of a folder of photos in that of the folder of its masks."""


class Pair(NamedTuple):
    """Two folders of one split."""

    photos: Path
    masks: Path
    split: str


def describe_loose(root: Path) -> str | None:
    """What lies in `root`, as a phrase with what to write and move; None where no photos lie beside masks."""
    pairs = loose_pairs(root)
    if not pairs:
        return None
    first = pairs[0]
    moves = []
    for pair in pairs:
        for folder, part in ((pair.photos, "images"), (pair.masks, "labels")):
            target = root / part / pair.split
            if folder != target:
                moves.append(f"{folder.relative_to(root)}/ to {target.relative_to(root)}/")
    more = ", and so on" if len(moves) > 2 * MOST_MOVES else ""
    to_move = f", and move {', '.join(moves[: 2 * MOST_MOVES])}{more}" if moves else ""
    photos, masks = first.photos.relative_to(root), first.masks.relative_to(root)
    return (
        f"{photos}/ and {masks}/ without a description: write the names of the classes into {root / 'dataset.yaml'} "
        f"(name: ..., classes: [...]){to_move}{_other_names(first)}{_command(root, first)}"
    )


def loose_pairs(root: Path) -> list[Pair]:
    """The folders of photos in `root` beside folders of masks, those of train first."""
    return [pair for pair in _pairs(root) if _images(pair.photos) and _images(pair.masks)]


def _pairs(root: Path) -> list[Pair]:
    folders = _folders(root)
    masks = next((folder for folder in folders if is_mask_folder(folder.name)), None)
    photos = next((folder for folder in folders if _holds_photos(folder) and folder != masks), None)
    if masks and photos:
        return _matched(_folders(photos), _folders(masks)) or [Pair(photos, masks, "train")]
    pairs = []
    for folder in folders:
        inner = _folders(folder)
        masks = next((part for part in inner if is_mask_folder(part.name)), None)
        photos = next((part for part in inner if _holds_photos(part) and part != masks), None)
        masks_of = next((part for part in folders if _is_masks_of(part.name, folder.name)), None)
        if masks and photos:
            pairs.append(Pair(photos, masks, _split(folder.name)))
        elif masks_of:
            pairs.append(Pair(folder, masks_of, _split(folder.name)))
    return sorted(pairs, key=lambda pair: (*SPLITS, pair.split).index(pair.split))


def _matched(photos: list[Path], masks: list[Path]) -> list[Pair]:
    """Folders of equal names, and of the others those that alone mean a split (val and validation)."""
    by_name = {folder.name: folder for folder in photos}
    pairs = [Pair(by_name[it.name], it, _split(it.name)) for it in masks if it.name in by_name]
    names = {pair.masks.name for pair in pairs}
    for split in SPLITS:
        meant = [[it for it in kind if it.name not in names and split_of(it.name) == split] for kind in (photos, masks)]
        if [len(kind) for kind in meant] == [1, 1]:
            pairs.append(Pair(meant[0][0], meant[1][0], split))
    return pairs


def _holds_photos(folder: Path) -> bool:
    return folder.name.lower() in PHOTO_FOLDERS


def _is_masks_of(name: str, photos: str) -> bool:
    return name.startswith(photos) and bool(_MASKS_OF.fullmatch(name.removeprefix(photos).lower()))


def _split(name: str) -> str:
    """What a folder of this name becomes: a folder that names no split is for training."""
    return split_of(name) or next((split for split in SPLITS if name.lower().startswith(split)), "train")


def _other_names(pair: Pair) -> str:
    """What to say where no mask is named as a photo is, or none in a format that is read."""
    stems = {stem for stem, _ in list_files(pair.photos, IMAGE_SUFFIXES, nested=False)}
    if stems & {stem for stem, _ in list_files(pair.masks, LABEL_SUFFIXES, nested=False)}:
        return ""
    stem, mask = min(stems), _images(pair.masks)[0]
    near = next((path for path in _images(pair.masks) if stem in path.name), mask)
    return f"; a mask has the name of its photo: {stem}.png, not {near.name}"


def _command(root: Path, pair: Pair) -> str:
    """What makes a dataset of it, where the masks are in a format that is read."""
    if not list_files(pair.masks, LABEL_SUFFIXES, nested=False):
        return ""
    return f"; or `semseg data import {root} --classes NAME,NAME -o FOLDER` makes a dataset of it"


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return [path for _, path in list_files(folder, (*IMAGE_SUFFIXES, ".gif"), nested=False)]
