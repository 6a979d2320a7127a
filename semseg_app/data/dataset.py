"""The dataset folder: what every room of the product reads.

    dataset.yaml                 name, classes, palette, ignore_index, optional label_map or color_map
    images/<split>/*.jpg|png     photos
    labels/<split>/*.png         indexed masks, same stem; a split without labels needs no folder here
                                 (with a color_map in dataset.yaml: color masks)
    splits/<name>.txt            optional lists, one stem per line ("train/stem" where a stem is not unique)
    unlabeled/                   optional photos without labels, sub-folders welcome
    image_labels.csv             optional, for PseudoSeg: image,classes (training/data/image_labels.py)

A list of samples is asked for by name: a folder split ("train"), a list ("1_8-labeled") or "unlabeled". In memory a
label is always uint8 with classes 0..C-1 and IGNORE (255), whatever the files use. No torch here.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from semseg_app.data.description import DatasetInfo as DatasetInfo
from semseg_app.data.description import default_palette as default_palette
from semseg_app.data.description import read_yaml as read_yaml
from semseg_app.data.list_lines import line_names, list_terms, one_photo
from semseg_app.data.listing import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from semseg_app.data.listing import RAW_SUFFIXES, UNREAD_SUFFIXES, SplitFiles, list_files, near_misses, why_unread
from semseg_app.data.listing import Sample as Sample
from semseg_app.data.mask_pixels import HIGHEST, LOWEST
from semseg_app.data.mask_pixels import read_color_mask as read_color_mask
from semseg_app.data.mask_pixels import read_mask as read_mask
from semseg_app.errors import UserError, did_you_mean, explain
from semseg_app.labels import IGNORE
from semseg_app.photos import DECODING_ERRORS as DECODING_ERRORS
from semseg_app.photos import open_photo, to_rgb, too_large

# Aerial photos pass the size at which Pillow warns; the size at which it refuses (179 million pixels) stays in force.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: Path) -> np.ndarray:
    """Decode a photo to RGB uint8 [H, W, 3], EXIF orientation applied. UserError when it cannot be read."""
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        raise UserError(f"{path}: {why_unread(path.suffix)}")
    try:
        with open_photo(path) as image:
            return np.asarray(to_rgb(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except DECODING_ERRORS as error:
        if isinstance(error, UnidentifiedImageError) and suffix in UNREAD_SUFFIXES:
            raise UserError(f"{path}: {why_unread(path.suffix)}") from error
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(f"{path}: {too_large()}") from error
        raise UserError(f"{path}: unreadable image ({error}); replace it or take it out of the dataset") from error


class SegmentationData:
    """A dataset folder, or a published layout seen as one (data/layouts.py).

    Args:
        root: the folder, for messages and relative paths.
        info: classes, palette, ignore index, label map.
        folders: split name -> where its files lie.
        layout: what the folder was taken for, for people.
        guessed: whether the names of folders are all that says which classes these are.
    """

    def __init__(
        self,
        root: Path,
        info: DatasetInfo,
        folders: Mapping[str, SplitFiles],
        layout: str = "dataset folder",
        guessed: bool = False,
    ):
        self.root = root
        self.layout = layout
        self.guessed = guessed
        self.info = info
        self.folders = folders

    @property
    def num_classes(self) -> int:
        return len(self.info.classes)

    def describe(self) -> str:
        """One line: where the data is, what it was taken for, its classes, its splits."""
        classes = ", ".join(self.info.classes[:4]) + (", ..." if self.num_classes > 4 else "")
        splits = ", ".join(self.split_names())
        count = f"{self.num_classes} class{'' if self.num_classes == 1 else 'es'}"
        line = f"{self.root}: {self.layout}, {count} ({classes}); splits and lists: {splits}"
        for split, rest in self.partly_labeled.items():
            total = len(self.folders[split].samples())
            verb = "has" if "unlabeled" in self.folders else "is"
            line += f"; {total - len(rest)} of {total} photos of {split!r} have masks, 'unlabeled' {verb} the rest"
        for name in self.hidden_lists:
            line += f"; splits/{name}.txt is not read, since a split has its name and other photos: rename the list"
        return line

    @cached_property
    def lookup(self) -> np.ndarray:
        """int16 [256]: value of an 8-bit mask -> class, IGNORE, or -1 where the value is not allowed."""
        return self._wide_lookup[-LOWEST:][:256]

    @cached_property
    def _wide_lookup(self) -> np.ndarray:
        """The same for every value from LOWEST on."""
        table = np.full(HIGHEST - LOWEST + 1, -1, np.int16)
        known = self.info.label_map
        if known is None:
            known = {index: index for index in range(self.num_classes)} | {self.info.ignore_index: IGNORE}
        for raw, target in known.items():
            table[raw - LOWEST] = self._internal(target)
        return table

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """int16, of the shape of `values`: the class of each value in a mask, IGNORE, or -1 where it is not allowed."""
        if values.dtype == np.uint8:
            classes: np.ndarray = self.lookup[values]
            return classes
        inside = (values >= LOWEST) & (values <= HIGHEST)
        places = np.where(inside, values, 0).astype(np.int32) - LOWEST
        return np.where(inside, self._wide_lookup[places], np.int16(-1))

    @cached_property
    def color_lookup(self) -> tuple[np.ndarray, np.ndarray]:
        """(0xRRGGBB int32 [K], ascending; class or IGNORE int16 [K]) of the color map."""
        pairs = sorted((int(color[1:], 16), self._internal(to)) for color, to in (self.info.color_map or {}).items())
        return np.array([color for color, _ in pairs], np.int32), np.array([to for _, to in pairs], np.int16)

    def _internal(self, target: int) -> int:
        return IGNORE if target == self.info.ignore_index else target

    def split_names(self) -> list[str]:
        """Every name that `samples` takes: folder splits first, then lists."""
        names = [*self.folders, *self.list_names()]
        return list(dict.fromkeys([*names, "unlabeled"] if self.partly_labeled else names))

    def list_names(self) -> list[str]:
        """The lists in splits/ and its sub-folders ("pascal/1_16/labeled", as UniMatch publishes them)."""
        folder = self.root / "splits"
        paths = (path.relative_to(folder) for path in folder.rglob("*.txt"))
        return sorted(
            path.with_suffix("").as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)
        )

    @cached_property
    def hidden_lists(self) -> list[str]:
        """Lists that are not read, since a split has the same name and other photos."""
        return [name for name in self.folders if self.list_path(name).is_file() and self._differs(name)]

    def _differs(self, name: str) -> bool:
        try:
            named = {sample.image for _, entry in self.list_entries(name) for sample in self.match(entry)}
        except UserError:  # the doctor says what is wrong with its lines
            return True
        return named != {sample.image for sample in self.folders[name].samples()}

    def list_path(self, name: str) -> Path:
        """The file of a list."""
        return self.root / "splits" / f"{name}.txt"

    def samples(self, name: str) -> list[Sample]:
        """The samples of a split, a list or "unlabeled", sorted by stem (a list keeps its own order).

        "unlabeled" is the folder of this name and what has no mask in partly labeled splits.

        "train_aug - 1_16-labeled" is train_aug without the photos of the list; " + " adds those of another list.
        """
        rest = [sample for split in self.partly_labeled.values() for sample in split] if name == "unlabeled" else []
        if name in self.folders:
            return self.folders[name].samples() + rest
        listing = self.list_path(name)
        if not listing.is_file():
            if len(list_terms(name)) > 1:
                return self._combined(name)
            if rest:
                return rest
        found = []
        for number, entry in self.list_entries(name):
            matches = self.match(entry)
            if len(matches) != 1:
                what = "is in several splits; write split/stem" if matches else f"has no image; {self._hint(entry)}"
                raise UserError(f"{listing}:{number}: {entry!r} {what}")
            found.append(matches[0])
        return found

    def _combined(self, expression: str) -> list[Sample]:
        """The photos of an expression, each once. UserError where a term takes nothing away or nothing remains."""
        chosen: dict[Path, Sample] = {}
        for term in list_terms(expression):
            members = {sample.image: sample for sample in self.samples(term.name)}
            if not term.minus:
                chosen = {**chosen, **{path: sample for path, sample in members.items() if path not in chosen}}
                continue
            if not chosen.keys() & members.keys():
                raise UserError(f"{self.root}: {expression!r}: {term.name!r} has no photo of what stands before it")
            chosen = {path: sample for path, sample in chosen.items() if path not in members}
        if not chosen:
            raise UserError(f"{self.root}: {expression!r} leaves no photo")
        return list(chosen.values())

    @cached_property
    def partly_labeled(self) -> dict[str, list[Sample]]:
        """Training split of which at least half lack a mask -> its photos without one: few labels, as they lie.

        Fewer are probably a mistake, as are masks that lie there under another name; the doctor names each.
        """
        partly = {}
        for split, files in self.folders.items():
            if files.labels is None or files.stems is not None or split.lower().startswith(("val", "test")):
                continue
            samples = files.samples()
            rest = [sample for sample in samples if sample.label is None]
            if not len(samples) / 2 <= len(rest) < len(samples):
                continue
            first = f"{rest[0].stem}{files.label_suffix}"
            if not near_misses(self.root, files.labels, first):
                partly[split] = rest
        return partly

    def labeled_samples(self, name: str) -> list[Sample]:
        """`samples`; where a partly labeled split is part of it, only those that have a mask."""
        samples = self.samples(name)
        partly = any(term.name in self.partly_labeled for term in list_terms(name) if not term.minus)
        return [sample for sample in samples if sample.label] if partly else samples

    def match(self, entry: str) -> list[Sample]:
        """What a line of a list means: a stem, a file name, a path, or a pair of photo and mask paths.

        One sample, or none, or several where splits have different photos of that stem.
        """
        suffixes = {files.image_suffix for files in self.folders.values() if files.image_suffix}
        for name in line_names(entry, sorted(suffixes)):
            if name in self.by_entry:
                return one_photo(self.by_entry[name], entry)
        return []

    def _hint(self, entry: str) -> str:
        near = did_you_mean(entry, self.by_entry)
        return near.removeprefix("; ") if near else "write one stem (the file name without suffix) per line"

    def list_entries(self, name: str) -> list[tuple[int, str]]:
        """(line number, entry) of a list in splits/. UserError when no list has that name."""
        listing = self.list_path(name)
        if not listing.is_file():
            raise UserError(
                f"{self.root}: no split or list named {name!r}; choose one of {', '.join(self.split_names())}"
                f"{did_you_mean(name, self.split_names())}"
            )
        try:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{listing}: not a text file in UTF-8; write one stem per line") from None
        return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]

    @cached_property
    def by_entry(self) -> dict[str, list[Sample]]:
        """What a line of a list may say -> the samples that it means: one, unless a bare stem is in several splits.

        Splits may share files (VOC's trainval repeats its train); the same photo with the same mask counts once.
        """
        index: dict[str, list[Sample]] = {}
        for split in self.folders:
            for sample in self.folders[split].samples():
                bare = index.setdefault(sample.stem, [])
                if sample not in bare:
                    bare.append(sample)
                index.setdefault(f"{split}/{sample.stem}", [sample])
        return index

    def read_image(self, sample: Sample) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""
        return read_image(sample.image)

    def read_label(self, sample: Sample) -> np.ndarray:
        """uint8 [H, W], classes 0..C-1 and IGNORE (255)."""
        if sample.label is None:
            raise UserError(
                f"{sample.image}: has no label{self.expected_mask(sample)}; only an unlabeled list may name it"
            )
        if self.info.color_map is not None:
            return self._read_color_label(sample.label)
        raw = read_mask(sample.label)
        label = self.classes_of(raw)
        if label.min(initial=0) < 0:
            wrong = int(raw[label < 0][0])
            raise UserError(
                f"{sample.label}: value {wrong} is not one of the {self.num_classes} classes nor ignore "
                f"({self.info.ignore_index}); run `semseg check {self.root}`"
            )
        return label.astype(np.uint8)

    def expected_mask(self, sample: Sample) -> str:
        """Where the mask of a photo should be, and what lies near that place; empty where no split has the photo."""
        for split, files in self.folders.items():
            if sample.image.is_relative_to(files.images):
                folder = files.labels or self.root / "labels" / split
                name = f"{sample.stem}{files.label_suffix}"
                near = near_misses(self.root, folder, name)
                found = f", and {' and '.join(near)} is there" if near else ""
                return f" (expected {folder / name}{found})"
        return ""

    def _read_color_label(self, path: Path) -> np.ndarray:
        colors, targets = self.color_lookup
        raw = read_color_mask(path)
        place = np.searchsorted(colors, raw).clip(max=len(colors) - 1)
        strange = raw[colors[place] != raw]
        if strange.size:
            raise UserError(f"{path}: color #{strange[0]:06x} is not in the color_map; run `semseg check {self.root}`")
        label: np.ndarray = targets[place]
        return label.astype(np.uint8)

    def read_pair(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Photo uint8 `[H, W, 3]` and label uint8 `[H, W]`. UserError where they differ in size."""
        image, label = self.read_image(sample), self.read_label(sample)
        if label.shape != image.shape[:2]:
            raise UserError(
                f"{sample.label}: is {label.shape[1]}x{label.shape[0]} but its image is "
                f"{image.shape[1]}x{image.shape[0]}; run `semseg check {self.root}`"
            )
        return image, label

    def fingerprint(self, samples: Iterable[Sample]) -> str:
        """16 hex digits over classes, maps, stems, sizes of photos and contents of masks: equal data, equal digits.

        The folder's place does not matter. UserError for a file that is listed and missing.
        """
        digest = hashlib.sha256("\0".join(self.info.classes).encode())
        for mapping in (self.info.label_map, self.info.color_map):
            if mapping is not None:
                digest.update(repr(sorted(mapping.items())).encode())
        for sample in samples:
            try:
                size = sample.image.stat().st_size
                mask = hashlib.sha256(sample.label.read_bytes()).hexdigest() if sample.label else "0"
            except FileNotFoundError as error:
                raise UserError(f"{error.filename}: is listed but not there; run `semseg check {self.root}`") from None
            digest.update(f"\n{sample.stem}\0{size}\0{mask}".encode())
        return digest.hexdigest()[:16]


def require_folder(root: Path) -> None:
    """UserError where `root` is no folder, with what to do about an archive or a single file."""
    if root.is_dir():
        return
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    if root.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        raise UserError(f"{root}: is an archive; unpack it and name the folder")
    raise UserError(f"{root}: is a file; name the folder that holds the dataset, {root.parent}")


def open_folder(root: Path | str) -> SegmentationData:
    """Open a dataset folder (the layout at the top of this file)."""
    root = Path(root)
    require_folder(root)
    path = root / "dataset.yaml"
    content = read_yaml(path)
    try:
        info = DatasetInfo.model_validate(content)
    except ValidationError as error:
        raise explain(error, path) from None
    folders: dict[str, SplitFiles] = {}
    images = root / "images"
    for split in sorted(images.iterdir()) if images.is_dir() else []:
        if split.is_dir() and not split.name.startswith("."):
            labels = root / "labels" / split.name
            folders[split.name] = SplitFiles(split, labels if labels.is_dir() else None, nested=True)
    if (root / "unlabeled").is_dir():
        folders["unlabeled"] = SplitFiles(root / "unlabeled", nested=True)
    if not folders:
        if images.is_dir() and list_files(images, IMAGE_SUFFIXES, nested=False):
            raise UserError(f"{images}: photos lie in images/ itself; move them to images/train/ (and masks likewise)")
        raise UserError(f"{root}: no images; expected images/<split>/ beside dataset.yaml")
    return SegmentationData(root, info, folders)
