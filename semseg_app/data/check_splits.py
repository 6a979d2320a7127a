"""The doctor's eye for what lies between files: partners, photos in two splits, lists, absent classes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.findings import Finding
from semseg_app.data.list_lines import pair_of
from semseg_app.data.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Sample,
    SplitFiles,
    list_files,
    near_misses,
    why_unread,
)
from semseg_app.data.splits import list_faults
from semseg_app.errors import UserError

SAME_PICTURE = 2.0
"""Two photos of one name whose 16x16 thumbnails differ by less (mean of 0..255) are one photo, saved twice."""
MOST_SEARCHES = 20
"""Photos without a mask, per split, for which the folder is searched for a mask of another name."""


class Photo(NamedTuple):
    """A photo that was read, and how to know it again."""

    split: str
    sample: Sample
    digest: bytes
    thumbnail: bytes


def role(split: str) -> str:
    """ "train" or "evaluation", by the split's name; "union" for trainval, which repeats both on purpose."""
    if split == "trainval":
        return "union"
    return "evaluation" if split.lower().startswith(("val", "test")) else "train"


def partner_findings(data: SegmentationData, samples: Mapping[str, list[Sample]]) -> list[Finding]:
    """Photos without masks, masks without photos, names used twice, empty splits, unexpected counts."""
    found = []
    for split, members in samples.items():
        files = data.folders[split]
        if not members:
            found.append(_empty(data, files))
        for stem, times in Counter(sample.stem for sample in members).items():
            if times > 1 and split != "unlabeled":
                twice = [sample.image for sample in members if sample.stem == stem]
                message = f"{', '.join(path.name for path in twice)} would share one mask; rename all but one"
                found.append(Finding("same-stem", message, relative(data, twice[0])))
        found += _odd_photos(data, split, members)
        if files.labels is None:
            if split != "unlabeled" and members:
                found.append(_without_masks(data, split, members))
            continue
        found += _two_masks(data, split)
        without = [sample for sample in members if sample.label is None]
        if split in data.partly_labeled:
            message = (
                f"{len(members) - len(without)} of {len(members)} photos have masks: training on {split!r} takes "
                "those, 'unlabeled' is the rest"
            )
            found.append(Finding("partly-labeled", message, split))
            without = []
        for number, sample in enumerate(without):
            name = f"{sample.stem}{files.label_suffix}"
            # Each search reads the whole folder, and after a few the pattern is clear.
            near = near_misses(data.root, files.labels, name) if number < MOST_SEARCHES else []
            hint = f"; {' and '.join(near)} is there" if near else ""
            message = f"expected {relative(data, files.labels)}/{name}{hint}"
            found.append(Finding("no-mask", message, relative(data, sample.image)))
        found += _masks_without_photos(data, split)
    for split, expected_count in (data.info.splits or {}).items():
        count = len(samples.get(split, []))
        if count != expected_count:
            found.append(Finding("split-count", f"{split!r} has {count} photos, not {expected_count}", "dataset.yaml"))
    return [*found, *_mask_folders_without_photos(data), *_unused_masks(data, samples)]


def _empty(data: SegmentationData, files: SplitFiles) -> Finding:
    """A split without photos, and the sub-folder that they lie in."""
    below = [] if files.nested else list_files(files.images, IMAGE_SUFFIXES, nested=True)
    if below:
        folder = relative(data, below[0][1].parent)
        message = f"the photos lie in sub-folders ({folder}/); move them to {relative(data, files.images)}/"
    else:
        message = f"no photos ({', '.join(IMAGE_SUFFIXES)})"
    return Finding("empty-split", message, relative(data, files.images))


def _unused_masks(data: SegmentationData, samples: Mapping[str, list[Sample]]) -> Iterable[Finding]:
    """Where lists choose from one folder of masks: masks of photos that no split with labels names."""
    used = {sample.stem for split, files in data.folders.items() if files.labels for sample in samples[split]}
    folders = {files.labels: files for files in data.folders.values() if files.labels and files.stems is not None}
    for folder, files in folders.items():
        unused = [path.name for stem, path in sorted(files.masks().items()) if stem not in used]
        if unused:
            message = (
                f"no list names the photo of {unused[0]}{_and_more(unused)}: they are neither trained on nor scored"
            )
            yield Finding("unused-mask", message, relative(data, folder))


def _odd_photos(data: SegmentationData, split: str, members: Iterable[Sample]) -> Iterable[Finding]:
    """Photos that are not read, and JPEGs of another name."""
    for path in data.folders[split].unread():
        yield Finding("unread-photo", why_unread(path.suffix), relative(data, path))
    for sample in members:
        if sample.image.suffix.lower() == ".jfif":
            yield Finding("jfif-photo", "read as the JPEG that it is", relative(data, sample.image))


def _without_masks(data: SegmentationData, split: str, members: list[Sample]) -> Finding:
    """A split without labels may be meant; one whose masks lie under another name is not."""
    folder = data.root / "labels" / split
    near = near_misses(data.root, folder, f"{members[0].stem}.png")
    if near and role(split) == "train" and (data.root / "dataset.yaml").is_file():
        message = f"masks are read from labels/{split}/; {' and '.join(near)} is there: rename it to labels/"
        return Finding("no-labels-folder", message, split)
    return Finding("unlabeled-split", f"{split!r} has no masks: {len(members)} photos", split)


def _masks_without_photos(data: SegmentationData, split: str) -> Iterable[Finding]:
    files = data.folders[split]
    assert files.labels is not None
    stems = {stem for stem, _ in files.photos()}
    # Each labels/<split> belongs to one split alone only in our own layout: elsewhere lists choose from shared folders.
    masks = files.masks()
    for stem, path in masks.items():
        if stem not in stems:
            near = _of_other_suffix(files.images / stem)
            message = f"expected {relative(data, files.images)}/{stem}.*" + (f"; {near} is not read" if near else "")
            yield Finding("no-photo", message, relative(data, path))
    if files.label_suffix == ".png":
        others = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in LABEL_SUFFIXES)
        for stem, path in list_files(files.labels, others, files.nested):
            if stem not in masks:
                message = f"a mask is read from a lossless {', '.join(LABEL_SUFFIXES)}; export it as PNG"
                yield Finding("lossy-mask", message, relative(data, path))


def _of_other_suffix(photo: Path) -> str:
    """The name of a file that is called like a photo but lacks the suffix of one; empty if no such file exists."""
    if not photo.parent.is_dir():
        return ""
    return next((path.name for path in photo.parent.iterdir() if photo.name in (path.name, path.stem)), "")


def _two_masks(data: SegmentationData, split: str) -> Iterable[Finding]:
    """Photos with masks in two formats: one of them would be ignored in silence."""
    for paths in data.folders[split].rival_masks():
        others = ", ".join(path.name for path in paths[1:])
        yield Finding("two-masks", f"{others} is ignored; delete one of them", relative(data, paths[0]))


def _mask_folders_without_photos(data: SegmentationData) -> Iterable[Finding]:
    folder = data.root / "labels"
    if not (data.root / "dataset.yaml").is_file() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in data.folders:
            yield Finding("no-photo", f"there is no images/{path.name}/", relative(data, path))


def overlap_findings(data: SegmentationData, photos: Iterable[Photo]) -> list[Finding]:
    """The same photo in two places, by its bytes, or by its name and how it looks."""
    found = []
    by_content: dict[bytes, Photo] = {}
    by_stem: dict[str, list[Photo]] = {}
    for photo in photos:
        if role(photo.split) == "union":
            continue
        file = relative(data, photo.sample.image)
        twin = by_content.setdefault(photo.digest, photo)
        same_role = role(twin.split) == role(photo.split)
        if twin.sample.image != photo.sample.image:
            message = f"the same bytes as {relative(data, twin.sample.image)}"
            found.append(Finding("duplicate-photo" if same_role else "overlap", message, file))
        elif not same_role:
            found.append(Finding("overlap", f"both {twin.split!r} and {photo.split!r} list it", file))
        for other in by_stem.get(photo.sample.stem, []):
            if role(other.split) != role(photo.split) and other.digest != photo.digest:
                where = relative(data, other.sample.image)
                if _look_alike(other, photo):
                    found.append(Finding("overlap", f"the name and, seen small, the picture of {where}", file))
                else:
                    found.append(Finding("name-in-two-splits", f"the name of {where}", file))
        by_stem.setdefault(photo.sample.stem, []).append(photo)
    return found


def _look_alike(one: Photo, other: Photo) -> bool:
    first, second = (np.frombuffer(photo.thumbnail, np.uint8).astype(float) for photo in (one, other))
    return float(np.abs(first - second).mean()) < SAME_PICTURE


def list_findings(
    data: SegmentationData, samples: Mapping[str, list[Sample]], presence: Mapping[Path, np.ndarray]
) -> tuple[list[Finding], dict[str, int]]:
    """The lists in splits/.

    Args:
        data: the dataset.
        samples: its folder splits.
        presence: mask -> bool [C], which classes it shows.

    Returns:
        Findings, and list -> images that it names.
    """
    found: list[Finding] = []
    split_of: dict[Path, str] = {}
    for split, of_split in samples.items():  # the first split counts: VOC's trainval repeats train and val
        for sample in of_split:
            split_of.setdefault(sample.image, split)
    members: dict[str, list[Path]] = {}
    for name in data.list_names():
        file = relative(data, data.list_path(name))
        named, problems = _read_list(data, name, file)
        found += problems
        members[name] = [sample.image for sample in named]
        if name in data.hidden_lists:
            message = f"the split {name!r} has other photos; rename the list, and name it in the recipe"
            found.append(Finding("list-hidden", message, file))
        kind = (pair_of(name) or ("", ""))[1]
        if kind:
            found += _leaks(data, file, named, split_of)
        if kind == "labeled":
            found += _absent_in_list(data, file, named, presence)
    for name in members:
        base, kind = pair_of(name) or ("", "")
        if kind == "labeled" and f"{base}unlabeled" in members:
            found += _pair_findings(data, base, members, samples, split_of)
    return found, {name: len(images) for name, images in members.items()}


def _read_list(data: SegmentationData, name: str, file: str) -> tuple[list[Sample], list[Finding]]:
    """The samples that a list names, each once, and what is wrong with its lines."""
    found: list[Finding] = []
    named: dict[Sample, int] = {}
    try:
        entries = data.list_entries(name)
    except UserError as error:
        return [], [Finding("list-entry", str(error).partition(": ")[2], file)]
    for number, entry in entries:
        matches = data.match(entry)
        if len(matches) != 1:
            what = "is in several splits; write split/stem" if matches else "has no photo"
            found.append(Finding("list-entry", f"{entry!r} {what}", f"{file}:{number}"))
        elif matches[0] in named:
            found.append(
                Finding("list-repeat", f"{entry!r} stands in line {named[matches[0]]} already", f"{file}:{number}")
            )
        else:
            named[matches[0]] = number
            if (pair_of(name) or ("", ""))[1] == "labeled" and matches[0].label is None:
                found.append(Finding("no-mask", f"{entry!r} is listed as labeled, but has no mask", f"{file}:{number}"))
    return list(named), found


def _leaks(data: SegmentationData, file: str, named: list[Sample], split_of: Mapping[Path, str]) -> Iterable[Finding]:
    leaked = [sample for sample in named if role(split_of[sample.image]) == "evaluation"]
    if leaked:
        names = [relative(data, sample.image) for sample in leaked]
        yield Finding("list-leak", f"names {names[0]}{_and_more(names)}", file)


def _absent_in_list(
    data: SegmentationData, file: str, named: list[Sample], presence: Mapping[Path, np.ndarray]
) -> Iterable[Finding]:
    masks = [presence[sample.label] for sample in named if sample.label is not None and sample.label in presence]
    if masks:
        seen = np.any(masks, axis=0)
        absent = [name for index, name in enumerate(data.info.classes) if not seen[index]]
        if absent:
            yield Finding("class-absent-elsewhere", f"no labeled image shows {', '.join(absent)}", file)


def _pair_findings(
    data: SegmentationData,
    base: str,
    members: Mapping[str, list[Path]],
    samples: Mapping[str, list[Sample]],
    split_of: Mapping[Path, str],
) -> Iterable[Finding]:
    labeled, unlabeled = (members[f"{base}{kind}"] for kind in ("labeled", "unlabeled"))
    whole = [sample.image for split in {split_of[path] for path in labeled} for sample in samples[split]]
    faults = list_faults(*([relative(data, path) for path in paths] for paths in (labeled, unlabeled, whole)))
    file = relative(data, data.list_path(f"{base}unlabeled"))
    if faults.both:
        message = f"also in {base}labeled.txt: {faults.both[0]}{_and_more(faults.both)}"
        yield Finding("list-overlap", message, file)
    if faults.lost:
        message = f"with {base}labeled.txt it leaves out {faults.lost[0]}{_and_more(faults.lost)}"
        yield Finding("list-incomplete", message, file)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def relative(data: SegmentationData, path: Path) -> str:
    """The path below the dataset's root, with forward slashes; whole where it lies elsewhere."""
    # Path.relative_to takes 50 us, a fifth of all the time that tiny images take here.
    return path.as_posix().removeprefix(f"{data.root.as_posix().rstrip('/')}/")
