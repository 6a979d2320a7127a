"""Photos beside masks that nothing describes, as people and other projects keep them: what to write and what to move.

img_dir/train + ann_dir/train    mmsegmentation; and photos/ + masks/, with folders for the splits or without
train/images + train/masks       the split first, also above further folders (Train/Rural/images_png + masks_png)
train_images + train_masks       and train/ + train_masks/ (Carvana), imagesTr/ + labelsTr/ (nnU-Net)
a.jpg + a_mask.png               photos and masks in one folder
"""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, imported_into, list_files


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


PHOTO_WORDS = _set("image images img imgs photo photos picture pictures rgb jpegimages input inputs original sat")
MASK_WORDS = _set(
    "mask masks label labels annotation annotations annot annots ann gt groundtruth groundtruths truth manual "
    "segmentation segmentations segmentationclass seg"
)
GROUND_TRUTH = re.compile(r"ground[-_. ]*truth", re.IGNORECASE)
"""One word; the ground alone is a class."""
VIEW_WORDS = _set("color colors colored vis viz visualization overlay overlays preview previews")
"""Of pictures that show masks."""
OTHER_WORDS = VIEW_WORDS | _set("instance object")
"""Of folders of such pictures, or of masks that number objects."""
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
SPLITS = ("train", "val", "test")
MOST_MOVES = 3
DEEPEST = 3
"""Folders below the root in which pairs are looked for."""
MASK_END = re.compile(r"[-_. ](masks?|labels?|gt|seg(mentation)?|annotation)$", re.IGNORECASE)
"""How masks are called that lie beside their photos."""


class Pair(NamedTuple):
    """Two folders of one split, or one folder that holds both."""

    photos: Path
    masks: Path
    split: str
    rivals: tuple[Path, ...] = ()
    """Further folders that may be the one of the masks."""


def describe_loose(root: Path) -> str | None:
    """What lies in `root`, as a phrase with what to write and move; None where no photos lie beside masks."""
    pairs = loose_pairs(root)
    if not pairs:
        return None
    first = pairs[0]
    if first.photos == first.masks:
        where = f"{first.photos.relative_to(root)}/" if first.photos != root else "one folder"
        return (
            f"photos and masks in {where} without a description: move photos to {root / 'images'}/<split>/ and masks, "
            f"of the same names, to {root / 'labels'}/<split>/, and write dataset.yaml beside{_command(root, first)}"
        )
    if len(_images(first.masks)) > len(_images(first.photos)):
        return (
            f"{first.photos.relative_to(root)}/ and {first.masks.relative_to(root)}/ with several masks for a photo; "
            "they are not read: join those of a photo into one, in which each pixel is the number of its class"
        )
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
    return sorted(_pairs(root, root, DEEPEST), key=lambda pair: (SPLITS.index(pair.split), pair.photos))


def _pairs(root: Path, folder: Path, depth: int) -> Iterator[Pair]:
    left = imported_into(root) if folder == root else []
    folders = [path for path in _folders(folder) if path not in left and not OTHER_WORDS & {*words_of(path.name)}]
    masks = [path for path in folders if MASK_WORDS & {*words_of(path.name)}]
    others = [path for path in folders if path not in masks]
    named = [path for path in others if PHOTO_WORDS & {*words_of(path.name)}]
    taken: set[Path] = set()
    for photos in [*named, *(path for path in others if path not in named)]:
        fitting = [path for path in masks if _key(path) == _key(photos)]
        if [photos] == named:
            fitting = [path for path in masks if _key(path) not in map(_key, others) or path in fitting]
        found = list(_of_folders(root, photos, fitting))
        if found:
            taken |= {photos, *fitting}
            yield from found
    if not taken and _holds_both(folder):
        yield Pair(folder, folder, _split(root, folder))
    for path in folders if depth else ():
        if path not in taken:
            yield from _pairs(root, path, depth - 1)


def _of_folders(root: Path, photos: Path, masks: list[Path]) -> Iterator[Pair]:
    """The pair of a folder of photos and the folder of its masks; where all lie in folders of both, their pairs."""
    if holding := [path for path in masks if _images(path)]:
        if _images(photos):
            yield Pair(photos, holding[0], _split(root, photos), tuple(holding[1:]))
        return
    for path in masks:
        inner = _matched(_folders(photos), _folders(path))
        pairs = [Pair(*both, _split(root, both[0])) for both in inner if _images(both[0]) and _images(both[1])]
        if pairs:
            yield from pairs
            return


def _matched(photos: list[Path], masks: list[Path]) -> list[tuple[Path, Path]]:
    """Folders of equal names, and of the others those that alone mean a split (val and validation)."""
    by_name = {folder.name: folder for folder in photos}
    pairs = [(by_name[it.name], it) for it in masks if it.name in by_name]
    names = {photo.name for photo, _ in pairs}
    for split in SPLITS:
        meant = [[it for it in kind if SPLIT_WORDS.get(it.name.lower()) == split] for kind in (photos, masks)]
        if [len(kind) for kind in meant] == [1, 1] and not names & {meant[0][0].name, meant[1][0].name}:
            pairs.append((meant[0][0], meant[1][0]))
    return pairs


def _holds_both(folder: Path) -> bool:
    """Whether masks lie beside their photos, under names that tell them apart or in another format."""
    names = [name for name, _ in list_files(folder, (*IMAGE_SUFFIXES, ".gif"), nested=False)]
    if any(MASK_END.search(name) for name in names):
        return not all(MASK_END.search(name) for name in names)
    lossless = [name for name, _ in list_files(folder, LABEL_SUFFIXES, nested=False)]
    return len(names) == 2 * len(lossless) > 0 and {*names} == {*lossless}


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """ "imagesTr" -> images, tr."""
    name = re.sub("(?<=[a-z])(?=[A-Z][a-z]*$)", " ", name).lower()
    name = GROUND_TRUTH.sub("groundtruth", name)
    words = re.findall("[a-z]+", re.sub("\\b(train|val|test)(?=(mask|label|annot|image|img))", "\\1 ", name))
    return tuple(words)


def _key(folder: Path) -> str:
    """What the names of a folder of photos and of the folder of its masks have in common."""
    return " ".join(word for word in words_of(folder.name) if word not in PHOTO_WORDS | MASK_WORDS)


def _split(root: Path, folder: Path) -> str:
    """What a folder becomes: one whose path names no split is for training."""
    words = [word for part in folder.relative_to(root).parts for word in words_of(part)]
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "train")


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
    from semseg_app.data.class_files import read_names

    classes = "" if read_names(root) else "--classes NAME,NAME "
    return f"; or `semseg data import {root} {classes}-o FOLDER` makes a dataset of it"


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return [path for _, path in list_files(folder, (*IMAGE_SUFFIXES, ".gif"), nested=False)]
