"""Photos beside masks that nothing describes: `--classes` names the values 0, 1, and so on; 255 is ignored.

The folders are found by their usual names (data/loose_folders.py). Of other names, the folder of the masks is what is
imported, and `--images` names that of the photos. Masks may have an ending of their own (a_mask.png), and so may photos
(a_sat.jpg); or both begin with what they are (img_1.jpg, mask_1.png). A file beside them may name the classes
(data/class_files.py), and lists (train.txt, val.txt) the splits. Two classes may be saved as 0 and 255, and numbers as
gray pictures or as levels of gray.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unicodedata import normalize

from pydantic import ValidationError

from semseg_app.data.check_masks import MaskStudy, are_numbers_in_gray
from semseg_app.data.class_files import read_class_file, read_names
from semseg_app.data.dataset import DatasetInfo, SegmentationData
from semseg_app.data.fix_map import BLACK, WHITE, colors_as_numbers, propose
from semseg_app.data.importers import masks
from semseg_app.data.importers.annotated import Export, ReadOptions, some, unique
from semseg_app.data.importers.photo_index import PhotoIndex, split_of
from semseg_app.data.inspection import MaskFacts
from semseg_app.data.list_lines import line_names, text_lines
from semseg_app.data.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, SplitFiles, evenly_spaced, list_files
from semseg_app.data.loose_folders import MASK_END, MASK_WORDS, PHOTO_WORDS, Pair, loose_pairs
from semseg_app.errors import UserError, explain
from semseg_app.labels import IGNORE, hex_color

MOST_COMPARED = 64
"""Masks whose names are looked at to find out how all of them are meant."""


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
    found = [pair for pair in loose_pairs(root) if not given or pair.photos != pair.masks]
    # Class files and lists lie beside the folders.
    beside = root.parent if given and all(_is_below(folder, root.parent) for folder in given) else root
    info, title = _description(root, beside, options.classes)
    if more := [it for it in given if found and not any(_is_below(pair.photos, it) for pair in found)]:
        raise UserError(
            f"--images {more[0]}: photos lie beside the masks, in {found[0].photos}; leave --images out, or import the "
            f"folder of the masks, {found[0].masks}"
        )
    pairs = found or [Pair(folder, _part(root, folder.name), split_of(folder.name) or "train") for folder in given]
    if not pairs:
        raise UserError(f"{root}: no photos beside masks; name the folder of the photos with --images")
    if rival := next((pair for pair in pairs if pair.rivals), None):
        raise UserError(
            f"{rival.photos}: its masks may be {rival.masks.name}/ or {rival.rivals[0].name}/; choose: `semseg data "
            f"import {rival.masks} --images {rival.photos} -o FOLDER`"
        )
    # By number: several folders may be of one split.
    folders = {f"{number}": _files(pair) for number, pair in enumerate(pairs)}
    data = SegmentationData(root, info, folders, title)
    facts = masks.facts_of(data)
    info, notes = _as_saved(data, facts)
    data = SegmentationData(root, info, folders, title)
    export = masks.export_of(data, facts)
    listed = _listed_splits(beside, data)
    items = []
    for item in export.items:
        photo = item.photo if isinstance(item.photo, Path) else None
        named = (listed.get(photo) if photo else None) or (None if found else photos.split_by_folders(photo))
        items.append(replace(item, split=named or pairs[int(item.split or 0)].split))
    if listed:
        notes.append(f"{len(listed):,} of {len(items):,} photos are in the split whose list of {beside} names them")
    if started := next((files for files in folders.values() if files.image_prefix or files.label_prefix), None):
        paired = next(f"{it.label.name} to {it.image.name}" for it in started.samples() if it.label)
        notes.append(f"masks belong to photos by their numbers: {paired}")
    notes += _left_over(data, pairs if found else [])
    return replace(export, items=items, notes=[*export.notes, *notes])


def _left_over(data: SegmentationData, pairs: Sequence[Pair]) -> Iterator[str]:
    """Masks without a photo, and pictures outside the pairs, a sentence each. UserError where photos share a mask."""
    used: dict[Path, Path] = {}
    for sample in (sample for files in data.folders.values() for sample in files.samples()):
        if sample.label in used:
            raise UserError(
                f"{sample.label}: is the mask of {used[sample.label]} and of {sample.image}; leave out one of the "
                "two, or import their folders one by one"
            )
        if sample.label:
            used[sample.label] = sample.image
    if without := {path for files in data.folders.values() for path in files.masks().values()} - used.keys():
        yield f"{len(without):,} of the masks have no photo ({some([path.name for path in sorted(without)])})"
    read_from = [folder for pair in pairs for folder in (pair.photos, pair.masks)]
    rest = [path for _, path in list_files(data.root, IMAGE_SUFFIXES, nested=True) if pairs]
    if rest := [path for path in rest if not any(path.is_relative_to(folder) for folder in read_from)]:
        names = unique([f"{path.parent.relative_to(data.root)}/" for path in rest])
        yield f"{len(rest):,} pictures in other folders are not read ({some(names)})"


def _part(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _description(root: Path, beside: Path, wanted: Sequence[str]) -> tuple[DatasetInfo, str]:
    """What the masks hold: what a file says of their colors or numbers, else `--classes`, else a file of names.

    Args:
        root: the masks, or their folder and that of the photos.
        beside: where such a file lies, if not in `root`.
        wanted: what `--classes` names.
    """
    described = read_class_file(root) or read_class_file(beside)
    if not (described or wanted):
        described = read_names(root) or read_names(beside)
    if described:
        return described[1], f"masks, {masks.GIVEN} {described[0].name}"
    if not wanted:
        raise UserError(
            f"{root}: nothing says what its masks hold; name the classes of the values 0, 1, ... with --classes "
            "NAME,NAME"
        )
    try:
        return DatasetInfo(name=root.resolve().name, classes=list(wanted)), f"masks, {masks.GIVEN} --classes"
    except ValidationError as error:
        raise explain(error, Path("--classes")) from None


def _listed_splits(root: Path, data: SegmentationData) -> dict[Path, str]:
    """Photo -> its split, of photos that a list beside the folders names (train.txt, val_list.txt)."""
    lists = {path: split for path in sorted(root.glob("*.txt")) if (split := split_of(path.stem))}
    if set(lists.values()) == {"train"}:
        return {}
    by_name: dict[str, set[Path]] = {}
    for sample in (sample for files in data.folders.values() for sample in files.samples()):
        *folders, _ = normalize("NFC", sample.image.as_posix()).split("/")
        for name in {normalize("NFC", sample.image.stem), sample.stem.rpartition("/")[2]}:
            for start in range(len(folders) + 1):
                by_name.setdefault("/".join([*folders[start:], name]), set()).add(sample.image)
    around = {path.parent.name for paths in by_name.values() for path in paths}
    listed: dict[Path, str] = {}
    for path, split in lists.items():
        for line in text_lines(path):
            entry = line.strip().split(",")[0]
            fitting = next((by_name[name] for name in line_names(entry, ()) if name in by_name), set())
            folder = Path(entry.split()[0].replace("\\", "/")).parent.name if entry else ""
            if folder in around:
                fitting = {photo for photo in fitting if photo.parent.name == folder}
            if len(fitting) > 1:
                raise UserError(
                    f"{path}: {entry} may be any of {some(sorted(map(str, fitting)))}; write the folder, too"
                )
            listed |= dict.fromkeys(fitting, split)
    return listed


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _files(pair: Pair) -> SplitFiles:
    """The files of a pair, whose names may begin and go on in their own ways around what a photo and its mask share."""
    nested = pair.photos not in pair.masks.parents  # else masks would be photos, too
    found = list_files(pair.masks, LABEL_SUFFIXES, nested=True)
    if pair.photos == pair.masks and any(MASK_END.search(name) for name, _ in found):
        found = [file for file in found if MASK_END.search(file[0])]
    if not found:
        raise UserError(
            f"{pair.masks}: no mask in it ({', '.join(LABEL_SUFFIXES)}); JPEG changes the numbers, so save them as PNG "
            "(of black and white ones JPEG files may be converted)"
        )
    listed = list_files(pair.photos, IMAGE_SUFFIXES, nested)
    photos = [file for file in listed if file not in found]
    if not photos:
        raise UserError(f"{pair.photos}: no photo in it that is not a mask, too; put photos and masks into two folders")
    photo_names, mask_names = ([normalize("NFC", name) for name, _ in files] for files in (photos, found))
    compared = evenly_spaced(mask_names, MOST_COMPARED)
    most, best = 0, ("", "", "", "")
    for photo_start, mask_start in _starts(photo_names, mask_names):
        for photo_end in _ends(photo_names):
            stems = {_between(name, photo_start, photo_end) for name in photo_names}
            for mask_end in _ends(mask_names):
                fitting = sum(_between(name, mask_start, mask_end) in stems for name in compared)
                if fitting > most:
                    most, best = fitting, (photo_start, photo_end, mask_start, mask_end)
    if not most and len(found) >= 2 * len(photos):
        raise UserError(
            f"{pair.masks}: {len(found)} masks, and photos: {len(photos)}; masks of single objects or classes "
            f"({found[0][1].name}, {found[1][1].name}) are read by --format single-masks where they are black but for "
            "one value; else join those of a photo into one, in which each pixel is the number of its class"
        )
    if not most:
        raise UserError(
            f"{pair.masks}: no mask has the name of a photo, with or without an ending of all masks; rename "
            f"{found[0][1].name} or its photo"
        )
    photo_start, photo_end, mask_start, mask_end = best
    photo_suffix = _suffix(photo_end, photos, "" if len(photos) == len(listed) else None)
    mask_suffix = _suffix(mask_end, found, ".png" if len(photos) == len(listed) else None)
    files = SplitFiles(pair.photos, pair.masks, photo_suffix, mask_suffix, photo_start, mask_start, nested)
    if pair.photos != pair.masks:
        return files
    return replace(files, stems=tuple(normalize("NFC", _between(name, photo_start, photo_end)) for name in photo_names))


def _between(name: str, start: str, end: str) -> str:
    """What names the photo, with the folders before it."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.removesuffix(end).removeprefix(start)


def _starts(photos: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """What the names of all photos and of all masks may begin with: nothing, or words that say which of them it is."""
    starts = []
    for names, words in ((photos, PHOTO_WORDS), (masks, MASK_WORDS)):
        first, others = names[0].rpartition("/")[2], [name.rpartition("/")[2] for name in names]
        ends = [end.end() for end in re.finditer(r"[A-Za-z]+[-_. ]*(?=.*\d)", first)]
        common = [first[:end] for end in ends if all(name.startswith(first[:end]) for name in others)]
        starts.append([start for start in common if words & set(re.findall("[a-z]+", start.lower()))])
    return [("", ""), *product(["", *starts[0]], starts[1]), *product(starts[0], [""])]


def _ends(names: Sequence[str]) -> list[str]:
    """What all names may end with: nothing, or a sign and words after what names the photo, as a number does.

    nnU-Net's photos end with the number of the channel, 0000 for pictures in color.
    """
    ends = [names[0][start.start() :] for start in re.finditer(r"(?<=[^/])[-_. ](?=[^/]*[A-Za-z][^/]*$)", names[0])]
    return ["", *(end for end in [*ends, "_0000"] if all(name.endswith(end) for name in names))]


def _suffix(end: str, files: Sequence[tuple[str, Path]], any_format: str | None) -> str:
    """What follows the stem in a file's name, as SplitFiles has it; `any_format` where the format does not matter."""
    if not end and any_format is not None:
        return any_format
    formats = sorted({path.suffix.lower() for _, path in files})
    if len(formats) > 1:
        raise UserError(f"{files[0][1].parent}: {' and '.join(formats)} files; save all in one format")
    return f"{end}{formats[0]}"


def _as_saved(data: SegmentationData, facts: Mapping[Path, MaskFacts]) -> tuple[DatasetInfo, list[str]]:
    """How to read masks that hold no plain numbers, and what to say of it. UserError where two readings fit."""
    info, study = data.info, MaskStudy(data)
    if info.label_map is not None or info.color_map is not None:
        return info, []
    for mask in facts.values():
        if mask.error is None:
            study.look("", mask)
    if study.moved_numbers:
        return info, []  # the import refuses them
    black_and_white = len(info.classes) == 2 and set(study.colors) == {BLACK, WHITE}
    if study.colors and not black_and_white and are_numbers_in_gray(study.colors, info):
        grays = {number: hex_color((number, number, number)) for number in (*range(len(info.classes)), IGNORE)}
        return info.model_copy(update={"color_map": {color: number for number, color in grays.items()}}), []
    if len(info.classes) == 1:
        raise UserError(
            f"{data.root}: one class ({info.classes[0]}) leaves nothing to tell apart; name what 0 is, too: --classes "
            f"background,{info.classes[0]}"
        )
    if study.colors and colors_as_numbers(info, study.colors) is None:
        colors = [hex_color(color) for color, _ in study.colors.most_common()]
        raise UserError(
            f"{data.root}: masks of colors ({some(colors)}), and nothing says which class each is; write a line "
            f"`name,red,green,blue` for each into {data.root / 'class_dict.csv'}"
        )
    proposal = propose(study)
    if proposal is None:
        return info, []
    if proposal.other is not None or proposal.doubtful:
        raise UserError(
            f"{data.root}: the masks hold {some([str(value) for value in sorted(study.values)])}, and --classes names "
            f"{len(info.classes)}; name a class for each number from 0 on, and ignore one with --map NAME=ignore"
        )
    return proposal.info, proposal.reasons
