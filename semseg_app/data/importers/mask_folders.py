"""Photos beside masks that nothing describes: `--classes` names the values 0, 1, and so on; 255 is ignored.

The folders are found by their usual names (data/loose_folders.py). Of other names, the folder of the masks is what is
imported, and `--images` names that of the photos. Masks may have an ending of their own (a_mask.png), and so may photos
(a_sat.jpg). Two classes may be saved as 0 and 255, and numbers as gray pictures.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

from pydantic import ValidationError

from semseg_app.data.check_masks import MaskStudy, are_numbers_in_gray
from semseg_app.data.dataset import DatasetInfo, SegmentationData
from semseg_app.data.importers import masks
from semseg_app.data.importers.annotated import Export, ReadOptions, some, unique
from semseg_app.data.importers.photo_index import PhotoIndex
from semseg_app.data.inspection import MaskFacts
from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, SplitFiles, evenly_spaced, list_files
from semseg_app.data.loose_folders import Pair, loose_pairs
from semseg_app.errors import UserError, explain
from semseg_app.labels import IGNORE, hex_color

MOST_COMPARED = 64
"""Masks whose names are looked at to find out what those of all of them have in common."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def find(root: Path) -> list[Path]:
    """Folders of photos beside folders of masks."""
    return [root] if root.is_dir() and loose_pairs(root) else []


def holds_masks(root: Path) -> bool:
    """Whether a folder may be one of masks alone."""
    return root.is_dir() and bool(list_files(root, LABEL_SUFFIXES, nested=True))


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read all pairs of folders."""
    root, given = files[0], photos.folders[:-1]
    if not root.is_dir():
        raise UserError(f"{root}: is a file; name the folder of the masks")
    if not options.classes:
        raise UserError(
            f"{root}: nothing says what its masks hold; name the classes of the values 0, 1, ... with --classes "
            "NAME,NAME"
        )
    found = loose_pairs(root)
    if more := [it for it in given if found and not any(_is_below(pair.photos, it) for pair in found)]:
        raise UserError(
            f"--images {more[0]}: photos lie beside the masks, in {found[0].photos}; leave --images out, or import the "
            f"folder of the masks, {found[0].masks}"
        )
    pairs = found or [Pair(folder, root, "train") for folder in given]
    if not pairs:
        raise UserError(f"{root}: no photos beside masks; name the folder of the photos with --images")
    try:
        info = DatasetInfo(name=root.resolve().name, classes=list(options.classes))
    except ValidationError as error:
        raise explain(error, Path("--classes")) from None
    # By number: several folders may be of one split.
    folders = {f"{number}": _files(pair) for number, pair in enumerate(pairs)}
    title = f"masks, {masks.GIVEN}"
    data = SegmentationData(root, info, folders, title)
    facts = masks.facts_of(data)
    info, notes = _as_saved(data, facts)
    data = SegmentationData(root, info, folders, title)
    export = masks.export_of(data, facts)
    items = []
    for item in export.items:
        around = photos.split_by_folders(item.photo) if isinstance(item.photo, Path) else None
        items.append(replace(item, split=pairs[int(item.split or 0)].split if found else around))
    used = Counter(_masks(data))
    if twice := [path for path, count in used.items() if count > 1]:
        raise UserError(f"{twice[0]}: is the mask of photos in several folders of --images; import them one by one")
    without = {path for files in folders.values() for path in files.masks().values()} - used.keys()
    if without:
        notes.append(f"{len(without):,} of the masks have no photo ({some([path.name for path in sorted(without)])})")
    read_from = [folder for pair in pairs for folder in (pair.photos, pair.masks)]
    rest = [path for _, path in list_files(root, IMAGE_SUFFIXES, nested=True) if found]
    if rest := [path for path in rest if not any(path.is_relative_to(folder) for folder in read_from)]:
        names = unique([f"{path.parent.relative_to(root)}/" for path in rest])
        notes.append(f"{len(rest):,} pictures in other folders are not read ({some(names)})")
    return replace(export, items=items, notes=[*export.notes, *notes])


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _masks(data: SegmentationData) -> list[Path]:
    """Those that have a photo."""
    return [sample.label for split in data.folders for sample in data.samples(split) if sample.label]


def _files(pair: Pair) -> SplitFiles:
    """The files of a pair, whose names may go on after what a photo and its mask have in common."""
    nested = pair.photos not in pair.masks.parents  # else masks would be photos, too
    found = list_files(pair.masks, LABEL_SUFFIXES, nested=True)
    if not found:
        raise UserError(f"{pair.masks}: no mask in it ({', '.join(LABEL_SUFFIXES)}); other formats change the numbers")
    listed = list_files(pair.photos, IMAGE_SUFFIXES, nested)
    photos = [file for file in listed if file not in found]
    if not photos:
        raise UserError(f"{pair.photos}: no photo in it that is not a mask, too; put photos and masks into two folders")
    photo_names, mask_names = ([normalize("NFC", name) for name, _ in files] for files in (photos, found))
    compared = evenly_spaced(mask_names, MOST_COMPARED)
    most, of_photos, of_masks = 0, "", ""
    for photo_end in _ends(photo_names):
        stems = {name.removesuffix(photo_end) for name in photo_names}
        for mask_end in _ends(mask_names):
            fitting = sum(name.removesuffix(mask_end) in stems for name in compared)
            if fitting > most:
                most, of_photos, of_masks = fitting, photo_end, mask_end
    if not most:
        raise UserError(
            f"{pair.masks}: no mask has the name of a photo, with or without an ending of all masks; rename "
            f"{found[0][1].name} or its photo"
        )
    photo_suffix = _suffix(of_photos, photos, "" if len(photos) == len(listed) else None)
    return SplitFiles(pair.photos, pair.masks, photo_suffix, _suffix(of_masks, found, ".png"), nested)


def _ends(names: Sequence[str]) -> list[str]:
    """What all names may end with: nothing, or a sign and words after what names the photo, as a number does."""
    ends = [names[0][start.start() :] for start in re.finditer(r"(?<=[^/])[-_. ](?=[^/]*[A-Za-z][^/]*$)", names[0])]
    return ["", *(end for end in ends if all(name.endswith(end) for name in names))]


def _suffix(end: str, files: Sequence[tuple[str, Path]], any_format: str | None) -> str:
    """What follows the stem in a file's name, as SplitFiles has it; `any_format` where the format does not matter."""
    if not end and any_format is not None:
        return any_format
    formats = sorted({path.suffix.lower() for _, path in files})
    if len(formats) > 1:
        raise UserError(f"{files[0][1].parent}: {' and '.join(formats)} files; save all in one format")
    return f"{end}{formats[0]}"


def _as_saved(data: SegmentationData, facts: Mapping[Path, MaskFacts]) -> tuple[DatasetInfo, list[str]]:
    """How to read masks that hold no plain numbers, and what to say of it."""
    study = MaskStudy(data)
    for mask in facts.values():
        if mask.error is None:
            study.look("", mask)
    info, second = data.info, data.info.classes[-1]
    mapping: dict[str, dict[int, int] | dict[str, int]] = {}
    notes = []
    if len(info.classes) == 2 and study.all_binary() and not study.colors:
        mapping = {"label_map": {0: 0, IGNORE: 1}}
        notes = [f"the masks hold 0 and 255; 255 is read as {second}"]
    elif len(info.classes) == 2 and set(study.colors) == {BLACK, WHITE} and not study.values:
        mapping = {"color_map": {hex_color(BLACK): 0, hex_color(WHITE): 1}}
        notes = [f"the masks are black and white; white is read as {second}"]
    elif study.colors and not study.values and are_numbers_in_gray(study.colors, info):
        grays = {number: hex_color((number, number, number)) for number in (*range(len(info.classes)), IGNORE)}
        mapping = {"color_map": {color: number for number, color in grays.items()}}
    return info.model_copy(update=mapping), notes
