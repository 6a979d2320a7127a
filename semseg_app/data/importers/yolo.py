"""YOLO segmentation as Ultralytics defines it (https://docs.ultralytics.com/datasets/segment/).

data.yaml names the classes and the photos of each split; a photo images/.../a.jpg has its polygons in
labels/.../a.txt, one object per line: `class x1 y1 x2 y2 ...`, as fractions of width and height. An empty file says
that nothing is there; without a file, the photo is not annotated. Label Studio writes classes.txt instead of
data.yaml.

Ultralytics draws larger objects first, so that smaller ones stay visible. A line with a box alone says only that
something is there: its box becomes 255.
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.data.dataset import read_yaml
from semseg_app.data.importers.annotated import Drawing, Export, Item, Object, Polygons, ReadOptions, Size, unique
from semseg_app.data.importers.json_files import files_below, files_of_kind
from semseg_app.data.importers.photo_index import SPLITS, PhotoIndex, equal_end, named_split, without_prefix
from semseg_app.data.list_lines import text_lines
from semseg_app.data.listing import IMAGE_SUFFIXES, list_files
from semseg_app.data.loose_folders import loose_pairs
from semseg_app.errors import UserError

BOX = 5
"""Fields of a line that has a class and a box: center and size."""


def find(root: Path) -> list[Path]:
    """data.yaml (any YAML file with `names` and a split), or classes.txt beside labels/."""
    if root.is_file():
        return [root] if root.suffix.lower() in (".yaml", ".yml") and _is_yolo(root) else []
    found = [path for suffix in (".yaml", ".yml") for path in files_of_kind(root, suffix, _is_yolo, most=20)]
    listed = root / "classes.txt"
    if not found and listed.is_file() and (root / "labels").is_dir():
        found = [listed]
    # Masks may be described by the same files, in Ultralytics' semantic segmentation, too.
    return [] if found and loose_pairs(root) and not _polygons(root) else found


def _polygons(root: Path) -> bool:
    """Whether any text file has the name of a picture."""
    pictures = {path.stem for _, path in list_files(root, IMAGE_SUFFIXES, nested=True)}
    return any(path.stem in pictures for path in root.rglob("*.txt"))


def _is_yolo(path: Path) -> bool:
    try:
        content = read_yaml(path)
    except (UserError, OSError):
        return path.name in ("data.yaml", "data.yml")
    return "names" in content and any(split in content for split in _splits(content))


def _splits(content: dict[str, Any]) -> dict[str, str]:
    """What a data.yaml calls its splits -> their names here. `semseg data export` also writes splits of other names."""
    others = [key for key, entry in content.items() if key not in SPLITS and entry == f"images/{key}"]
    return SPLITS | {key: named_split(f"{key}") or "train" for key in others}


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read one or more datasets."""
    classes: list[str] = []
    items: list[Item] = []
    notes: list[str] = []
    owners: dict[Path, dict[int, str]] = {}
    users: dict[Path, Path] = {}
    nearest = min(len(path.parts) for path in files)
    for path in files:
        content = _of_label_studio(path) if path.suffix == ".txt" else read_yaml(path)
        if "kpt_shape" in content:
            raise UserError(f"{path}: kpt_shape: key points cover no area; export polygons")
        if len(path.parts) > nearest and not _is_here(path, content):  # of a cloned program, with data of its own
            notes.append(f"{path}: left out; the photos that it names are not there")
            continue
        names = _names(path, content)
        called = _splits(content)
        splits = {key: list(_photos(path, content, content.get(key), key, photos, notes)) for key in called}
        elsewhere = _Elsewhere(path, {photo for listed in splits.values() for photo in listed})
        classes += names.values()
        for key, listed in splits.items():
            new = [photo for photo in dict.fromkeys(listed) if photo not in owners]
            if listed and len(new) < len(listed):
                # Data of a single folder, such as coco8-seg's relatives, name it as train and as val.
                again = f"{len(listed) - len(new):,} of {len(listed):,} photos"
                notes.append(f"{path.name}: {key}: {again} were named before, and stay where they were first")
            if any(owners.get(photo, names) != names for photo in listed):
                raise UserError(f"{path}: names other classes than another data.yaml for the same photos; import one")
            owners |= dict.fromkeys(new, names)
            for photo in new:
                labels = elsewhere.labels_of(photo)
                if users.setdefault(labels, photo) != photo and labels != labels_path(photo):
                    raise UserError(
                        f"{labels}: fits {users[labels]} and {photo}; sort labels and photos into folders alike"
                    )
                items.append(Item(photos.relative(photo), photo, _reader(labels, names), f"{labels}", called[key]))
        if not owners:
            raise UserError(f"{path}: no photo in the folders that train, val and test name")
    if not any(Path(item.source).is_file() for item in items):
        raise UserError(f"{files[0]}: no photo has a file of polygons; expected {items[0].source} and so on")
    return Export("YOLO segmentation", unique(classes), items, overlap="largest-on-bottom", notes=notes)


def _of_label_studio(path: Path) -> dict[str, Any]:
    names = [line.strip() for line in text_lines(path) if line.strip()]
    return {"names": names, "train": "images"}


def _names(path: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        names = {}
    numbers = {int(key) for key in names if str(key).isdecimal()}  # {'0': car} is meant as {0: car}
    if not names or len(numbers) < len(names):
        raise UserError(f"{path}: names: expected a list of class names, or `number: name` lines")
    return {int(key): str(name) for key, name in names.items()}


def _photos(
    path: Path, content: dict[str, Any], entries: Any, key: str, photos: PhotoIndex, notes: list[str]
) -> Iterator[Path]:
    """The photos of a split: `entries` is a folder, a list of photos in a file, or several of these."""
    for entry in [entries] if entries and isinstance(entries, str) else entries or []:
        if not isinstance(entry, str):
            raise UserError(f"{path}: {key}: expected a folder or a file that lists photos, found {entry!r}")
        place = _place(path, content.get("path"), entry)
        if path.suffix == ".txt" and not (place and list_files(place, IMAGE_SUFFIXES, nested=True)):
            yield from _photos_of(path, photos)
            continue
        if place is None and (place := _moved(path.parent, entry)):
            notes.append(f"{path.name}: {key}: {entry} is not there; {place.relative_to(path.parent)} is read instead")
        if place is None and SPLITS.get(key) == "test":  # Roboflow writes the line whether there are test photos or not
            notes.append(f"{path.name}: {key}: {entry} is not there; the split is left out")
            continue
        if place is None:
            raise UserError(f"{path}: {key}: no folder or file {entry}; correct the path, or leave {key} out")
        if place.is_dir():
            found = [photo for _, photo in list_files(place, IMAGE_SUFFIXES, nested=True)]
        else:
            found = list(_listed(place, photos))
        for photo in found:
            photos.taken.add(photo)
        yield from found


def _photos_of(path: Path, photos: PhotoIndex) -> Iterator[Path]:
    """The photos of Label Studio's files of polygons, which it can export alone."""
    for labels in files_below(path.parent / "labels", ".txt"):
        stems = dict.fromkeys((labels.stem, without_prefix(labels.stem)))
        names = [f"{stem}{suffix}" for stem in stems for suffix in IMAGE_SUFFIXES]
        photo = next((photo for name in names if (photo := photos.find(name))), None)
        if photo is None:
            raise UserError(
                f"{labels}: no photo is called {list(stems)[-1]}; name the folder of the photos with --images"
            )
        yield photo


class _Elsewhere:
    """The files of polygons in labels/ beside `path`, for those of its photos that lie elsewhere."""

    def __init__(self, path: Path, photos: Collection[Path]):
        self.folder = path.parent / "labels"
        self.folders = {name for parent in {photo.parent for photo in photos} for name in parent.parts}
        self.named: set[str] = set()
        self.files: dict[str, list[Path]] = {}
        for labels in files_below(self.folder, ".txt") if self.folder.is_dir() else ():
            for stem in {labels.stem, without_prefix(labels.stem) if path.suffix == ".txt" else labels.stem}:
                self.files.setdefault(stem, []).append(labels)
                self.named.update(labels.relative_to(self.folder).parts[:-1])

    def labels_of(self, photo: Path) -> Path:
        """Where Ultralytics looks for the polygons of a photo; or, of one elsewhere, where they lie with the export.

        As with photos: `cam1/1.txt` is not of `cam2/1.jpg` where there is a folder `cam1`.
        """
        usual = labels_path(photo)
        inside = Path(os.path.normpath(photo.absolute())).is_relative_to(
            os.path.normpath(self.folder.parent.absolute())
        )
        if inside or usual.is_file():
            return usual
        fitting = [labels for labels in self.files.get(photo.stem, []) if self._agree(labels, photo)]
        fitting = [labels for labels in fitting if labels.stem == photo.stem] or fitting
        ends = [equal_end(labels.parent.parts, photo.parent.parts) for labels in fitting]
        best = [labels for labels, end in zip(fitting, ends, strict=True) if end == max(ends)]
        if len(best) > 1:
            raise UserError(f"{photo}: {best[0]} and {best[1]} fit equally well; leave one, or rename both photos")
        return next(iter(best), usual)

    def _agree(self, labels: Path, photo: Path) -> bool:
        """Whether no folder of one is there for the other, too, and is another one."""
        named, around = labels.relative_to(self.folder).parts[:-1], photo.parent.parts
        here = all(name in around or name not in self.folders for name in named)
        return here and all(name in labels.parts or name not in self.named for name in around)


def _is_here(path: Path, content: dict[str, Any]) -> bool:
    """Whether something is there that a data.yaml names."""
    named = [content.get(key) for key in _splits(content)]
    entries = [entry for it in named for entry in (it if isinstance(it, list) else [it]) if isinstance(entry, str)]
    return any(_place(path, content.get("path"), entry) or _moved(path.parent, entry) for entry in entries)


def _place(path: Path, base: Any, entry: str) -> Path | None:
    """Where a folder of data.yaml is. Roboflow writes `../train/images` for the train/ beside data.yaml."""
    bases = [path.parent / base] if isinstance(base, str) else []
    relative = entry.removeprefix("../")
    candidates = [folder / text for folder in (*bases, path.parent) for text in (entry, relative)]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _moved(folder: Path, entry: str) -> Path | None:
    """What lies below `folder` by the end of a path of another machine: two names or more, as many as agree."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = (folder.joinpath(*parts[start:]) for start in range(len(parts) - 1))
    return next((tail for tail in tails if tail.exists()), None)


def _listed(listing: Path, photos: PhotoIndex) -> Iterator[Path]:
    for number, line in enumerate(text_lines(listing), 1):
        if line.strip():
            photo = photos.find(line.strip(), listing.parent)
            if photo is None:
                raise UserError(f"{listing}:{number}: no photo {line.strip()}; correct the line, or name --images")
            yield photo


def labels_path(photo: Path) -> Path:
    """Ultralytics' rule: the last folder `images` of the path becomes `labels`; else the file lies with the photo."""
    parts = list(photo.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _reader(labels: Path, names: dict[int, str]) -> Callable[[Size], Drawing | None]:
    def read_labels(size: Size) -> Drawing | None:
        if not labels.is_file():
            return None
        numbered = [(number, line.split()) for number, line in enumerate(text_lines(labels), 1) if line.strip()]
        return Drawing([[_object(fields, f"{labels}:{number}", names, size) for number, fields in numbered]])

    return read_labels


def _object(fields: list[str], at: str, names: dict[int, str], size: Size) -> Object:
    try:
        index, numbers = int(float(fields[0])), np.array(fields[1:], np.float64)
    except ValueError:
        raise UserError(f"{at}: expected `class x1 y1 x2 y2 ...` in numbers") from None
    if index not in names:
        raise UserError(f"{at}: no class has the number {index}; data.yaml names {min(names)} to {max(names)}")
    if len(numbers) % 2 or len(numbers) < 4:
        raise UserError(f"{at}: expected pairs of x and y after the class, found {len(numbers)} numbers")
    if not ((numbers >= -1) & (numbers <= 2)).all():  # NaN compares false
        raise UserError(f"{at}: coordinates must be fractions of width and height, 0 to 1")
    points = numbers.reshape(-1, 2) * size
    if len(fields) == BOX:
        (x, y), (width, height) = points.tolist()
        low, high = (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
        corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        return Object(None, Polygons([corners], centers=False), at, beneath=True)
    return Object(names[index], Polygons([points]), at)
