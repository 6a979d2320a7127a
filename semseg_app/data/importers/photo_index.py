"""Finding the photo that an annotation names."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from unicodedata import normalize
from urllib.parse import parse_qs, unquote, urlsplit

from semseg_app.data.listing import IMAGE_SUFFIXES, UNREAD_SUFFIXES, imported_into, is_mask_folder, list_files
from semseg_app.errors import UserError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What tools call a split -> its name here."""


def split_of(text: str) -> str | None:
    """The split that a file or folder name speaks of: "instances_val2017" -> "val". None where it speaks of none."""
    words = [word for word in re.split(r"[^a-z]+", text.lower()) if word in SPLITS]
    return SPLITS[words[-1]] if words else None


def named_split(name: str) -> str | None:
    """The split that an export names for a photo, as it is called here; None where the name says nothing.

    "unlabeled" says nothing: `semseg data export` writes it for photos without a mask, which have one once they are
    annotated and then are for training.
    """
    if name.lower() in ("", "default", "unlabeled"):
        return None
    return split_of(name) or re.sub(r"[^\w.-]+", "_", name)


def address_path(address: str) -> str:
    """The path in an address; Label Studio's /data/local-files/?d=a/b.jpg is a/b.jpg."""
    try:
        parts = urlsplit(address)
    except ValueError:  # "http://[..." is no address, but can be a name
        return address
    if local := parse_qs(parts.query).get("d"):
        return local[0]
    return unquote(parts.path)


def without_prefix(name: str) -> str:
    """The file name without the eight digits and the hyphen that Label Studio puts before that of an uploaded file."""
    return re.sub(r"^[0-9a-f]{8}-", "", re.split(r"[/\\]", address_path(name))[-1])


class PhotoIndex:
    """The photos below some folders, to be found by the end of their path. Datasets imported there before do not count.

    Args:
        folders: where photos lie, sub-folders too; those below the first are preferred among equals. The last is the
            export's own folder.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders
        self.taken: set[Path] = set()
        """Photos that were found so far."""
        self.whole = False
        """Whether every photo is there to be annotated, so that `rest` need not ask which folder it lies in."""
        self._by_name: dict[str, list[Path]] = {}
        self._folder_ends: set[tuple[str, ...]] = set()
        """What the paths of the folders of photos end with, in lower case."""
        seen = set()
        for folder in folders:
            parents = set()
            imported = imported_into(folder)
            for _, path in list_files(folder, IMAGE_SUFFIXES, nested=True):
                if path not in seen and not any(path.is_relative_to(other) for other in imported):
                    seen.add(path)
                    parents.add(path.parent)
                    self._by_name.setdefault(_plain(path.name), []).append(path)
            # The export's own folder has any name.
            above = [folder.name] if folder.name and folder != folders[-1] else []
            for parent in parents:
                names = _lower([*above, *parent.relative_to(folder).parts])
                if not any(map(is_mask_folder, names)):
                    self._folder_ends |= {
                        tuple(names[start : end + 1]) for end in range(len(names)) for start in range(end + 1)
                    }

    def find(self, name: str, near: Path | None = None, split: str | None = None) -> Path | None:
        """The photo whose path ends like `name`, if need be in upper or lower case; None where no photo does.

        Its folders may have other names here, as those of another machine do. But where the folder that `name` gives is
        here and lacks the photo, one of the same file name in another folder is another photo.

        Args:
            name: file name, path or address from the annotation file.
            near: a folder; photos below it, or else below the nearest folder around it, are preferred among equals.
            split: photos in folders of this split's name are preferred among equals, too.

        Raises:
            UserError: several photos fit equally well.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if parts and _plain(parts[-1]) not in self._by_name:
            parts = PurePosixPath(address_path(name)).parts
        if not parts:
            return None
        alike = self._by_name.get(_plain(parts[-1])) or self._converted(parts[-1])
        candidates = [path for path in alike if path.name == parts[-1]] or alike
        candidates = self._nearest(self._where_named(candidates, parts), parts, near, split)
        if len(candidates) > 1:
            raise UserError(
                f"{name}: {candidates[0]} and {candidates[1]} fit equally well; name the folder of the photos with "
                "--images"
            )
        self.taken.update(candidates)
        return next(iter(candidates), None)

    def _where_named(self, candidates: list[Path], parts: Sequence[str]) -> list[Path]:
        """Those below the folder that an annotation names, where it is here: by as much of its path as is here."""
        named = tuple(_lower(parts[:-1]))
        here = next((named[start:] for start in range(len(named)) if named[start:] in self._folder_ends), ())
        if not here:
            return candidates
        around = {path: tuple(_lower(path.parts[:-1])) for path in candidates}
        return [
            path
            for path, folders in around.items()
            if any(folders[start : start + len(here)] == here for start in range(len(folders)))
        ]

    def _nearest(
        self, candidates: list[Path], parts: Sequence[str], near: Path | None, split: str | None
    ) -> list[Path]:
        """The candidates that fit best, see `find`."""
        if len(candidates) > 1:
            lower = _lower(parts)
            agreeing = [(equal_end(_lower(path.parts), lower), equal_end(path.parts, parts)) for path in candidates]
            candidates = [path for path, end in zip(candidates, agreeing, strict=True) if end == max(agreeing)]
        if len(candidates) > 1:  # a mask often has the name of its photo
            candidates = [path for path in candidates if not self._in_mask_folder(path)] or candidates
        for folder in self.folders if len(candidates) > 1 else ():
            if below := [path for path in candidates if path.is_relative_to(folder)]:
                candidates = below
                break
        for folder in (near, *near.parents) if len(candidates) > 1 and near is not None else ():
            if below := [path for path in candidates if path.is_relative_to(folder)]:
                candidates = below
                break
        if len(candidates) > 1 and split is not None:
            folders = {path: self.relative(path).split("/")[:-1] for path in candidates}
            candidates = [path for path in candidates if split in map(split_of, folders[path])] or candidates
        if len(candidates) > 1:  # "a.jpg" is images/a.jpg rather than images/sub/a.jpg
            depth = min(len(path.parts) for path in candidates)
            candidates = [path for path in candidates if len(path.parts) == depth]
        return candidates

    def has_folder(self, name: str) -> bool:
        """Whether photos lie in a folder of this name, or below one."""
        return (_plain(name),) in self._folder_ends

    def _converted(self, name: str) -> list[Path]:
        """Photos that a photo in a format which is not read may have been converted to."""
        path = PurePosixPath(name)
        if path.suffix.lower() not in UNREAD_SUFFIXES:
            return []
        names = (_plain(f"{path.stem}{suffix}") for suffix in IMAGE_SUFFIXES)
        return [path for name in names for path in self._by_name.get(name, []) if not self._in_mask_folder(path)]

    def split_by_folders(self, path: Path | None) -> str | None:
        """The split that a folder around an annotation file or a photo is named after, the innermost such folder's.

        Folders below the export's own count, or else below the outermost that was given: the others have any names.
        """
        tops = [self.folders[-1], *sorted(self.folders, key=lambda folder: len(folder.parts))]
        top = next((top for top in tops if path and path.is_relative_to(top)), None)
        names = path.relative_to(top).parts[-2::-1] if path and top else ()
        splits = (SPLITS.get(name.lower().rstrip("0123456789")) for name in names)  # train2017 is train
        return next(filter(None, splits), None)

    def rest(self) -> list[Path]:
        """Photos that no annotation has named so far, in the folders of those that were, sorted.

        Other folders are left alone, unless `whole` is set: what lies there may be masks or previews.
        """
        folders = {path.parent for path in self.taken}
        rest = [path for paths in self._by_name.values() for path in paths if path not in self.taken]
        return sorted(
            path for path in rest if path.parent in folders or (self.whole and not self._in_mask_folder(path))
        )

    def _in_mask_folder(self, path: Path) -> bool:
        folders = self.relative(path).split("/")[:-1]
        return any(map(is_mask_folder, folders))

    def relative(self, path: Path) -> str:
        """The path below the folder that it was found in; whole, where it lies in none of them."""
        folder = next((folder for folder in self.folders if path.is_relative_to(folder)), Path())
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _plain(name: str) -> str:
    """In lower case; letters and their accents in one character, which a Mac's file names have in two."""
    return normalize("NFC", name).lower()


def _lower(parts: Sequence[str]) -> list[str]:
    return [_plain(part) for part in parts]


def equal_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names agree, from the end."""
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count
